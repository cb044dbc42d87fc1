"""The linear layers of a Keras model as the compute-reduction convention counts them."""

import math
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfapprox.rewriters.keras_graph import check_graph_model, is_graph_model, nodes_of
from tfapprox.sampling.compute_reduction import LayerCompute, compute_reduction


def model_layers(model: Any) -> list[LayerCompute]:
    """Returns one entry for each call of a dense, convolutional or recurrent layer.

    MACs are for one example; a size the model leaves open counts as 1 (so those of a
    language model of any length are for one word). Recurrent layers count their two
    gate matrices at every step. A layer is `first` when nothing before it learns.

    Args:
      model: Sequential or Functional, with or without sampled layers.

    Raises:
      UserError: no graph model.
    """
    check_graph_model(model)
    entries = []
    for layer, source, output, first in _calls(model, set()):
        macs, out_channels, rows = _forward(layer, source, output)
        if macs:
            sampling = getattr(layer, "sampling", None)
            entries.append(LayerCompute(layer.name, macs, out_channels, first, sampling, rows))
    return entries


def model_compute_reduction(model: Any, batch_size: int) -> float:
    """Returns the share of training MACs that the model's sampled layers save."""
    return compute_reduction(model_layers(model), batch_size)


def kept_activation_bytes(model: Any, batch_size: int) -> int:
    """Returns the bytes of layer inputs that one step keeps for the kernels' gradients.

    Sampled layers keep the gathered columns only. Counted as `model_layers` counts.

    Raises:
      UserError: no graph model.
    """
    check_graph_model(model)
    total = 0.0
    for layer, source, output, _ in _calls(model, set()):
        if _forward(layer, source, output)[0]:
            sampling: Any = getattr(layer, "sampling", None)
            nested = sampling is not None and sampling.mode == "nested"
            share = sampling.forward_ratio if nested else 1.0
            entries = math.prod(size or 1 for size in source.shape[1:])
            total += share * entries * tf.as_dtype(layer.compute_dtype).size
    return round(total * batch_size)


def _calls(model: Any, learned: set[int]) -> Iterator[tuple[Any, Any, Any, bool]]:
    """Yields (layer, input, output, first) of each call; `learned` holds tensors behind weights."""
    for layer, args, kwargs, outputs in nodes_of(model):
        sources = [x for x in tf.nest.flatten((args, kwargs)) if hasattr(x, "shape")]
        behind = any(id(x) in learned for x in sources)
        if is_graph_model(layer):
            yield from _calls(layer, {id(x) for x in layer.inputs} if behind else set())
        else:
            yield layer, sources[0], outputs[0], not behind
        if behind or layer.trainable_weights:
            learned.update(id(x) for x in outputs)


def _forward(layer: Any, source: Any, output: Any) -> tuple[int, int, int]:
    """Returns MACs of the forward pass and rows for one example, output channels between."""
    cell: Any = getattr(layer, "cell", None)
    if hasattr(cell, "recurrent_kernel"):
        size = sum(math.prod(w.shape) for w in (cell.kernel, cell.recurrent_kernel))
        return size * (source.shape[1] or 1), int(cell.kernel.shape[-1]), 1
    kernel: Any = getattr(layer, "kernel", None)
    if kernel is None or len(kernel.shape) < 2:
        return 0, 0, 1
    if hasattr(layer, "equation"):
        labels = layer.equation.replace(" ", "").partition("->")
        free = [x for x in labels[0].partition(",")[2] if x in labels[2]]
        own = math.prod(output.shape[labels[2].index(x) - len(labels[2])] for x in free)
        positions = math.prod(size or 1 for size in output.shape[1:]) // own
        return math.prod(kernel.shape) * positions, own, positions
    positions = math.prod(size or 1 for size in output.shape[1:-1])
    rows = positions if len(kernel.shape) == 2 else 1
    return math.prod(kernel.shape) * positions, int(kernel.shape[-1]), rows
