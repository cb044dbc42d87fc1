"""How often sampling keeps each input channel, and exact evaluation that allows for it."""

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.crs_einsum_dense import contracted_axes
from tfapprox.training.looking import only_looking, raw
from tfapprox.training.sampling_schedules import sampled_layers


def kept_channels(model: Any, x: Any, y: Any) -> list[np.ndarray]:
    """Returns which input channels each sampled layer keeps of a batch, bool [n] a layer.

    A channel counts when its kernel rows get a gradient; one that is zero throughout the
    batch does not. Weights, statistics, draws and states stay as they are.

    Args:
      model: compiled.
      x, y: a batch of a size that the model was trained with.
    """
    layers = sampled_layers(model)
    with _forward_sampling_alone(layers), only_looking(model):
        kernels = [raw(layer.kernel) for layer in layers]
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        gradients = tape.gradient(loss, kernels)
    return [
        np.any(_by_channel(layer, tf.convert_to_tensor(gradient).numpy()) != 0, axis=(0, 2))
        for layer, gradient in zip(layers, gradients, strict=True)
    ]


def keep_shares(model: Any, batches: Iterable[tuple[Any, Any]]) -> list[np.ndarray]:
    """Returns the share of the batches that each input channel is kept of, float [n] a layer.

    Args:
      batches: (x, y) as in training; not empty.

    Raises:
      UserError: there is none, or they are no pairs.
    """
    kept = [kept_channels(model, x, y) for x, y in _pairs(batches)]
    return [np.mean(layer, axis=0) for layer in zip(*kept, strict=True)]


@contextlib.contextmanager
def expected_kernels(model: Any, batches: Iterable[tuple[Any, Any]]) -> Iterator[None]:
    """Within it, exact products equal what sampled ones are on average.

    A plain sum of the kept pairs is, on average, sum_i q_i X^(i) W_(i) with q_i the share
    of batches that keep pair i. A network trained on such sums has learned to do without
    the pairs that are rarely kept: their kernel rows are hardly trained, and exact
    evaluation adds them in full. Rows scaled by q_i do away with that difference, as
    weights scaled by the keep probability do after dropout. Scaled sampling, whose
    average is the exact product already, and exact layers stay as they are.

    Args:
      batches: (x, y) as in training; some twenty. Read only where there is a plain sum.

    Raises:
      UserError: see `keep_shares`.
    """
    layers = sampled_layers(model)
    plain = [not (layer.sampling.scale or _whole(layer.sampling)) for layer in layers]
    kernels = [raw(layer.kernel).numpy() for layer in layers]
    shares = keep_shares(model, batches) if any(plain) else [np.ones(1)] * len(layers)
    try:
        for layer, share, scaled in zip(layers, shares, plain, strict=True):
            if scaled:
                _scale_rows(layer, share)
        yield
    finally:
        for layer, kernel in zip(layers, kernels, strict=True):
            layer.kernel.assign(kernel)


def fold_keep_shares(model: Any, batches: Iterable[tuple[Any, Any]]) -> None:
    """Scales kernels for good as `expected_kernels` does: call it once, after training."""
    with expected_kernels(model, batches):
        kernels = [raw(layer.kernel).numpy() for layer in sampled_layers(model)]
    for layer, kernel in zip(sampled_layers(model), kernels, strict=True):
        layer.kernel.assign(kernel)


def _pairs(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    wanted = (
        "give pairs (x, y) of batches, e.g. tf.data.Dataset.from_tensor_slices((x, y)).batch(64)"
    )
    empty = True
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            kind = type(batch).__name__
            raise UserError(f"expected batches as in training, got a {kind} among them: {wanted}")
        empty = False
        yield batch[0], batch[1]
    if empty:
        raise UserError(f"expected some batches as in training, got none: {wanted}")


def _whole(sampling: Any) -> bool:
    """Whether forward products use all pairs."""
    return sampling.forward_ratio == 1 and sampling.threshold is None


@contextlib.contextmanager
def _forward_sampling_alone(layers: list[Any]) -> Iterator[None]:
    """Lets gradients see what the forward product kept, whatever the mode."""
    settings = [layer.sampling for layer in layers]
    try:
        for layer, sampling in zip(layers, settings, strict=True):
            layer.sampling = dataclasses.replace(
                sampling, mode="nested", backward_ratio=1.0, gradient_variant=None
            )
        yield
    finally:
        for layer, sampling in zip(layers, settings, strict=True):
            layer.sampling = sampling


def _scale_rows(layer: Any, share: np.ndarray) -> None:
    kernel = raw(layer.kernel).numpy()
    scaled = _by_channel(layer, kernel) * share[:, np.newaxis].astype(kernel.dtype)
    layer.kernel.assign(scaled.reshape(kernel.shape))


def _by_channel(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel as [taps, input channels, outputs]."""
    if isinstance(layer, keras.layers.EinsumDense):
        return kernel.reshape(1, math.prod(kernel.shape[: contracted_axes(layer.equation)]), -1)
    return kernel.reshape(-1, *kernel.shape[-2:])
