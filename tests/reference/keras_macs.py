"""Multiply-adds of a built Keras model, read off its layers' symbolic outputs."""

import math


def macs_of(model) -> int:
    """Counts the Dense, Conv1D, Conv2D, DepthwiseConv2D and EinsumDense calls of a flat model."""
    return sum(_layer_macs(layer) for layer in model.layers)


def kernel_params_of(model) -> int:
    """Counts the entries of all variables with two or more axes."""
    return sum(math.prod(w.shape) for w in model.weights if len(w.shape) > 1)


def _layer_macs(layer) -> int:
    kernels = [w for w in layer.weights if len(w.shape) > 1]
    if not kernels:
        return 0
    kernel = kernels[0]  # a bias over several axes may follow
    channel_axes = 1
    if type(layer).__name__ == "EinsumDense":
        labels, _, output = layer.equation.partition("->")
        produced = set(labels.partition(",")[2]) & set(output)
        channel_axes = len(produced)
    shape = layer.output.shape[1:]
    positions = shape[1:] if getattr(layer, "data_format", "") == "channels_first" else None
    if positions is None:
        positions = shape[: len(shape) - channel_axes]
    return math.prod(kernel.shape) * math.prod(positions)
