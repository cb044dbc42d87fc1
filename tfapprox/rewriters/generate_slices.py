"""Turns the convolutions of a Keras model into slice-generated ones, and back."""

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from tfapprox.decompositions.slice_generator import SliceShape
from tfapprox.errors import UserError
from tfapprox.layers.slice_generated_conv1d import SliceGeneratedConv1D
from tfapprox.layers.slice_generated_conv2d import SliceGeneratedConv2D
from tfapprox.layers.slice_generator import SliceGenerator
from tfapprox.rewriters.keras_graph import (
    check_graph_model,
    first_argument,
    layers_by_path,
    nodes_of,
)
from tfapprox.rewriters.layer_substitution import Factory, Tensor, substitute_layers
from tfapprox.rewriters.slice_filling import fill_generated, find_generator, take_over

_LOG = logging.getLogger(__name__)

_GENERATED = {keras.layers.Conv1D: SliceGeneratedConv1D, keras.layers.Conv2D: SliceGeneratedConv2D}


@dataclasses.dataclass(frozen=True, eq=False)
class SliceRewrite:
    """A model with slice-generated convolutions.

    Attributes:
      model: the new model; not compiled.
      generator: its new `SliceGenerator` layer.
      errors: path of each replaced convolution -> relative error of its kernel; 1.0
        for one to be trained from scratch.
      kept: path of each other convolution -> why it is as it was.
    """

    model: Any
    generator: SliceGenerator
    errors: Mapping[str, float]
    kept: Mapping[str, str]


def generate_slices(
    model: Any,
    slice_shape: Sequence[int],
    code_size: int,
    which: str | None = None,
    *,
    fit: bool = False,
    binary: bool = False,
    generator: Any = None,
    seed: int | None = None,
) -> SliceRewrite:
    """Returns the model with the chosen convolutions generated from slices.

    A chosen convolution keeps its name, geometry, activation and bias; its kernel
    becomes codes for one generator that all of them share. Everything else is
    copied, weights included. Call again with another `which` for a second generator.
    A warning tells if the generator and codes take more than the kernels did.

    Args:
      model: Sequential or Functional Keras model; never changed.
      slice_shape: out, in, height, width.
      code_size: n_c.
      which: regular expression searched in the layers' paths; by default every
        convolution but the first.
      fit: approximate the kernels the model has (truncated SVD of all slices, or
        least squares for a given or binary generator). Otherwise codes are drawn so
        that kernels have He scale, for training from scratch.
      binary: the generator is random signs and never trains (BCSG).
      generator: a pre-trained generator, which is frozen: a `SliceGenerator`, or a
        model that has exactly one.
      seed: of the generator's draw.

    Raises:
      UserError: nothing is chosen, the model can't be replayed, or the given
        generator has another shape.

    References:
      Omidvar et al. 2021, sections 3.1 and 4.3; fitting is ours.
    """
    _check_flavour(model)
    if len(slice_shape) != 4:
        raise UserError(
            f"slice_shape must be four numbers (out, in, height, width), got {slice_shape!r}"
        )
    chosen, kept = _choose(model, which)
    shape = SliceShape(*slice_shape)
    new_generator = SliceGenerator(
        (shape.out_channels, shape.in_channels, shape.height, shape.width),
        code_size,
        binary=binary,
        seed=seed,
        name=_unused_name(model),
    )
    made: dict[str, Any] = {}
    slices: list[Tensor] = []

    def factory(path: str) -> Factory:
        def make(layer: Any) -> Callable[[Tensor], Tensor]:
            made[path] = generated = _generated_conv(layer)

            def apply(x: Tensor) -> Tensor:
                if not slices:
                    slices.append(new_generator(x))
                return generated([x, slices[0]])

            return apply

        return make

    new_model = substitute_layers(model, {path: factory(path) for path in chosen})
    if generator is not None:
        take_over(find_generator(generator), new_generator)
    trained = generator is not None
    errors = fill_generated(chosen, made, new_generator, shape, fit, trained)
    _warn_if_larger(model, new_model, new_generator)
    return SliceRewrite(new_model, new_generator, errors, kept)


def _warn_if_larger(model: Any, new_model: Any, generator: SliceGenerator) -> None:
    before, after, shared = (_weight_bytes(x) for x in (model, new_model, generator))
    if after >= before:
        _LOG.warning(
            "weights take %s bytes with slices and %s without, as the generator alone has %s: "
            "take a smaller slice_shape or code_size",
            *(f"{size:,}" for size in (after, before, shared)),
        )


def _weight_bytes(layer: Any) -> int:
    return sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in layer.weights)


def strip_slices(model: Any) -> Any:
    """Returns the model with plain convolutions that hold the generated kernels.

    Generators disappear; names, outputs and all other weights stay.

    Raises:
      UserError: the model can't be replayed, or has no slice-generated convolution.
    """
    _check_flavour(model)
    layers = layers_by_path(model)
    generated = {p: x for p, x in layers.items() if isinstance(x, SliceGeneratedConv2D)}
    if not generated:
        raise UserError(f"model {model.name!r} has no slice-generated convolution")
    kernels = generated_kernels(model)
    filling: list[tuple[Any, list[np.ndarray]]] = []

    def restore(path: str) -> Factory:
        def make(layer: Any) -> Callable[[Tensor], Tensor]:
            plain = _plain_conv(layer)
            bias = [] if layer.bias is None else [np.asarray(layer.bias)]
            filling.append((plain, [kernels[path], *bias]))
            return lambda inputs: plain(inputs[0])

        return make

    factories = {path: restore(path) for path in generated}
    # What a generator is replaced by goes nowhere, so the new model leaves it out.
    factories |= {p: _drop for p, x in layers.items() if isinstance(x, SliceGenerator)}
    new_model = substitute_layers(model, factories)
    for plain, weights in filling:
        plain.set_weights(weights)
    return new_model


def generated_kernels(model: Any) -> dict[str, np.ndarray]:
    """Returns path -> kernel as Keras lays it out, of each slice-generated convolution."""
    kernels = {}
    for path, layer in layers_by_path(model).items():
        if isinstance(layer, SliceGeneratedConv2D):
            slices = generator_of(model, layer)(tf.zeros((1, 1)))
            kernel = np.asarray(layer.generated_kernel(slices))
            kernels[path] = kernel[0] if isinstance(layer, SliceGeneratedConv1D) else kernel
    return kernels


def generator_of(model: Any, layer: SliceGeneratedConv2D) -> Any:
    """Returns the generator layer whose slices `layer` is called with."""
    for caller, args, kwargs, _ in nodes_of(model):
        if caller is layer:
            return first_argument(args, kwargs)[1]._keras_history[0]
    raise UserError(f"model {model.name!r} does not call layer {layer.name!r}")


def _check_flavour(model: Any) -> None:
    flavour = check_graph_model(model)
    if flavour.layers.Layer is not keras.layers.Layer:
        raise UserError(
            f"model {model.name!r} is built with {flavour.__name__}, tensorflow.keras is "
            "the other Keras here; set TF_USE_LEGACY_KERAS=1 for tf_keras, unset it for Keras 3"
        )


def _choose(model: Any, which: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    chosen, kept = {}, {}
    convolutions = {p: x for p, x in layers_by_path(model).items() if "Conv" in type(x).__name__}
    for index, (path, layer) in enumerate(convolutions.items()):
        if which is None and index == 0:
            kept[path] = "the first convolution"
        elif which is not None and not re.search(which, path):
            kept[path] = f"not chosen by {which!r}"
        elif reason := _reason_to_keep(layer):
            kept[path] = reason
        else:
            chosen[path] = layer
    if not chosen:
        raise UserError(
            f"no convolution of model {model.name!r} can be generated: "
            + ("; ".join(f"{path}: {reason}" for path, reason in kept.items()) or "it has none")
        )
    return chosen, kept


def _reason_to_keep(layer: Any) -> str:
    if type(layer) not in _GENERATED:
        return f"{type(layer).__name__} layers are not generated"
    if layer.groups != 1:
        return f"grouped convolution ({layer.groups} groups)"
    if layer.data_format != "channels_last":
        return "channels come first"
    if layer.padding not in ("same", "valid"):
        return f"{layer.padding} padding"
    return ""


def _generated_conv(layer: Any) -> Any:
    return _GENERATED[type(layer)](
        layer.filters,
        layer.kernel_size,
        layer.strides,
        layer.padding,
        layer.dilation_rate,
        activation=layer.activation,
        use_bias=layer.use_bias,
        codes_regularizer=layer.kernel_regularizer,
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )


def _plain_conv(layer: Any) -> Any:
    flat = isinstance(layer, SliceGeneratedConv1D)
    first = 1 if flat else 0
    return (keras.layers.Conv1D if flat else keras.layers.Conv2D)(
        layer.filters,
        layer.kernel_size[first:],
        strides=layer.strides[first:],
        padding=layer.padding,
        dilation_rate=layer.dilation_rate[first:],
        activation=layer.activation,
        use_bias=layer.use_bias,
        kernel_regularizer=layer.codes_regularizer,
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )


def _drop(layer: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: x


def _unused_name(model: Any) -> str:
    names = {layer.name for layer in layers_by_path(model).values()}
    candidates = ["slice_generator", *(f"slice_generator_{i}" for i in range(1, len(names) + 2))]
    return next(name for name in candidates if name not in names)
