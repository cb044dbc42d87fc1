"""Values for the layers of a slice-generated model: drawn, fitted, or taken over."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.decompositions.slice_generator import (
    SliceFit,
    SliceShape,
    fit_generator,
    project,
)
from tfapprox.errors import UserError
from tfapprox.layers.slice_generator import SliceGenerator
from tfapprox.rewriters.keras_graph import layers_by_path


def find_generator(source: Any) -> SliceGenerator:
    """Returns a generator, given as a layer or as a model that has exactly one.

    Raises:
      UserError: the model has none, or several.
    """
    if isinstance(source, SliceGenerator):
        return source
    found = [x for x in layers_by_path(source).values() if isinstance(x, SliceGenerator)]
    if len(found) != 1:
        raise UserError(
            f"model {source.name!r} has {len(found)} slice generators; pass the layer to use"
        )
    return found[0]


def take_over(source: SliceGenerator, target: SliceGenerator) -> None:
    """Copies a generator's values and freezes them.

    Raises:
      UserError: it has another shape, or its values generate nothing.
    """
    key = ("slice_shape", "code_size", "binary")
    old, new = ([getattr(x, name) for name in key] for x in (source, target))
    if old != new:
        raise UserError(
            f"the given generator has slice shape, code size, binary = {old}, expected {new}"
        )
    values = np.asarray(source.generator)
    if not values.any() or not np.isfinite(values).all():
        raise UserError("the given generator is zero or not finite: it generates nothing")
    target.generator.assign(values)
    target.trainable = False


def fill_generated(
    chosen: Mapping[str, Any],
    made: Mapping[str, Any],
    generator: SliceGenerator,
    shape: SliceShape,
    fit: bool,
    trained: bool,
) -> dict[str, float]:
    """Gives generated layers codes and biases; returns the kernels' relative errors.

    Args:
      chosen: path -> the ordinary convolution.
      made: path -> the slice-generated layer in its place.
      generator: the layer they share.
      shape: of a slice.
      fit: approximate the kernels of `chosen`; else the codes stay as they were drawn.
      trained: whether the generator comes from another training.
    """
    for path, layer in chosen.items():
        if layer.use_bias:
            made[path].bias.assign(layer.bias)
    basis = np.asarray(tf.cast(generator(tf.zeros((1, 1))), tf.float32), np.float64)
    if not fit:
        if trained:  # its entries may have any scale by now
            scale = np.sqrt(np.mean(basis**2) * len(basis))
            for layer in made.values():
                layer.codes.assign(np.asarray(layer.codes) / scale)
        return dict.fromkeys(chosen, 1.0)
    kernels = [_hwio(layer) for layer in chosen.values()]
    if trained or generator.binary:
        found = project(kernels, shape, basis)
    else:
        found = _rescaled(fit_generator(kernels, shape, generator.code_size))
        generator.generator.assign(found.generator.reshape(generator.code_size, -1))
    for path, codes in zip(chosen, found.codes, strict=True):
        made[path].codes.assign(codes)
    return dict(zip(chosen, found.errors, strict=True))


def _hwio(layer: Any) -> np.ndarray:
    kernel = np.asarray(layer.kernel)
    return kernel[None] if kernel.ndim == 3 else kernel


def _rescaled(found: SliceFit) -> SliceFit:
    """Gives the generator the scale it has when trained from scratch (see SliceGenerator)."""
    scale = np.sqrt(found.slice_shape.size / len(found.generator))
    codes = tuple(codes / scale for codes in found.codes)
    return dataclasses.replace(found, generator=found.generator * scale, codes=codes)
