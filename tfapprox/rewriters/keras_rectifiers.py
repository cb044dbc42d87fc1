"""Finds the ReLU behind a Keras layer, and the bias and normalization between."""

import math
from collections import defaultdict
from typing import Any

import numpy as np

from tfapprox.calibration.rectifying import Rectifier
from tfapprox.rewriters.keras_graph import (
    flavour_of,
    is_graph_model,
    layers_by_path,
    nodes_of,
    output_structure,
    tree_of,
)

Place = tuple[Any, list]
"""A call: its layer, None where the tensor leaves the model, and its outputs."""


def keras_rectifiers(model: Any) -> dict[str, Rectifier]:
    """Returns the ReLU that a layer with a kernel runs into, by the layer's path.

    A layer that is called several times, or whose output has several readers, has none.
    """
    readers, calls = _readers(model)
    found = {}
    for path, layer in layers_by_path(model).items():
        own = calls[id(layer)]
        if hasattr(layer, "kernel") and len(own) == 1 and len(own[0]) == 1:
            rectifier = _behind(layer, own[0], readers)
            if rectifier is not None:
                found[path] = rectifier
    return found


def _readers(model: Any) -> tuple[dict[int, list[Place]], dict[int, list[list]]]:
    """Returns who reads each tensor, and the outputs of each layer's calls, models taken apart."""
    readers: dict[int, list[Place]] = defaultdict(list)
    calls: dict[int, list[list]] = defaultdict(list)
    tree, models = tree_of(flavour_of(model)), [model]
    for inner in models:  # grows while it is walked
        for layer, args, kwargs, outputs in nodes_of(inner):
            if is_graph_model(layer) and not any(layer is known for known in models):
                models.append(layer)
            calls[id(layer)].append(list(outputs))
            for tensor in tree.flatten((args, dict(kwargs))):
                readers[id(tensor)].append((layer, list(outputs)))
        for tensor in tree.flatten(output_structure(inner)):
            readers[id(tensor)].append((None, []))
    return readers, calls


def _behind(layer: Any, outputs: list, readers: dict[int, list[Place]]) -> Rectifier | None:
    channels, bias = int(outputs[0].shape[-1]), getattr(layer, "bias", None)
    shift = np.zeros(channels) if bias is None else np.asarray(bias, np.float64).reshape(-1)
    if shift.size != channels or getattr(layer, "data_format", "") == "channels_first":
        return None
    scale, top = np.ones(channels), _top_of(layer)
    while top is None:
        followers = readers[id(outputs[0])]
        if not _passes_on(layer) or len(outputs) != 1 or len(followers) != 1:
            return None
        layer, outputs = followers[0]
        if layer is None or hasattr(layer, "kernel"):
            return None
        if type(layer).__name__ == "BatchNormalization":
            step = _normalization(layer, outputs)
            if step is None:
                return None
            scale, shift = scale * step[0], shift * step[0] + step[1]
        top = _top_of(layer)
    return Rectifier(scale, shift, top)


def _top_of(layer: Any) -> float | None:
    """Returns where a layer's ReLU ends, None if it is no ReLU."""
    if type(layer).__name__ == "ReLU":
        if float(layer.negative_slope or 0) or float(layer.threshold or 0):
            return None
        return math.inf if layer.max_value is None else float(layer.max_value)
    name = getattr(getattr(layer, "activation", None), "__name__", "")
    return {"relu": math.inf, "relu6": 6.0}.get(name)


def _passes_on(layer: Any) -> bool:
    """Says whether what the layer does to its channels, in inference, is known here."""
    if hasattr(layer, "activation"):
        return getattr(layer.activation, "__name__", "linear") == "linear"
    return type(layer).__name__ in ("BatchNormalization", "Dropout", "SpatialDropout2D")


def _normalization(layer: Any, outputs: list) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns scale and shift of a batch normalization, None if not of the last axis."""
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    if axis not in (-1, len(outputs[0].shape) - 1):
        return None
    mean, variance = (np.asarray(x, np.float64) for x in (layer.moving_mean, layer.moving_variance))
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * np.asarray(layer.gamma)
    beta = 0.0 if layer.beta is None else np.asarray(layer.beta)
    return scale, beta - mean * scale
