"""Finds the ReLU behind a site, and the bias and normalization between."""

import math
from collections.abc import Collection

import numpy as np
from tensorflow.core.framework import node_def_pb2

from tfapprox.calibration.rectifying import Rectifier
from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.offsets import channels_last
from tfapprox.rewriters.saved_model.provenance import Static
from tfapprox.rewriters.saved_model.provenance_ops import TRANSPARENT, Unevaluable
from tfapprox.rewriters.saved_model.sites import KernelUses, SiteUse
from tfapprox.rewriters.saved_model.tracing import Instance

_TOPS = {"Relu": math.inf, "Relu6": 6.0}
_NORMALIZATIONS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_RESHAPES = ("Reshape", "Squeeze", "ExpandDims", "Cast")  # channels stay the last axis

Affine = tuple[np.ndarray, np.ndarray]
"""Scale and shift of every channel."""


def rectifier_behind(kernel: KernelUses, fetched: Collection[str] = ()) -> Rectifier | None:
    """Returns the ReLU that all uses of a kernel run into, None if there is no such one.

    Args:
      kernel: of a site.
      fetched: nodes of the main graph whose values leave the model.
    """
    found = [_behind_use(use, kernel.site.out_channels, fetched) for use in kernel.uses]
    first = found[0] if found else None
    if first is None or not all(one is not None and one.agrees_with(first) for one in found):
        return None
    return first


def _behind_use(use: SiteUse, channels: int, fetched: Collection[str]) -> Rectifier | None:
    instance, node = use.instance, use.instance.body.nodes[use.node]
    if use.flipped or not channels_last(node, use.match):
        return None
    scale, shift = np.ones(channels), np.zeros(channels)
    while True:
        place = _only_reader(instance, node, fetched)
        if place is None:
            return None
        name, index = place
        node = instance.body.nodes[name]
        if node.op in _TOPS:
            return Rectifier(scale, shift, _TOPS[node.op])
        step = _affine(instance, node, index, channels)
        if step is None:
            return None
        scale, shift = scale * step[0], shift * step[0] + step[1]


def _only_reader(
    instance: Instance, node: node_def_pb2.NodeDef, fetched: Collection[str]
) -> tuple[str, int] | None:
    """Returns the one node that reads a node's output, and by which input."""
    body = instance.body
    reference = body.canonical(body.reference(node.name, node.op))
    if reference in body.returns.values() or (not body.is_function and node.name in fetched):
        return None
    readers = body.consumers.get(reference, [])
    if body.is_function:
        readers = [reader for reader in readers if reader[0] in body.executed]
    return readers[0] if len(readers) == 1 else None


def _affine(
    instance: Instance, node: node_def_pb2.NodeDef, index: int, channels: int
) -> Affine | None:
    """Returns what a node does to every channel of its input `index`, None if no such thing."""
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op in TRANSPARENT or node.op in _RESHAPES:
        return (one, zero) if index == 0 else None
    if node.op in _NORMALIZATIONS:
        return _normalization(instance, node, index, channels)
    vector = _vector(instance, node, 1 - index, channels) if index in (0, 1) else None
    if vector is None:
        return None
    if node.op in ("BiasAdd", "Add", "AddV2"):
        return one, vector
    if node.op == "Sub":
        return (one, -vector) if index == 0 else (-one, vector)
    if node.op == "Mul":
        return vector, zero
    return (1 / vector, zero) if node.op == "RealDiv" and index == 0 and vector.all() else None


def _normalization(
    instance: Instance, node: node_def_pb2.NodeDef, index: int, channels: int
) -> Affine | None:
    if index != 0 or attribute(node, "is_training").b:
        return None
    if attribute(node, "data_format").s == b"NCHW":
        return None
    vectors = [_vector(instance, node, place, channels) for place in range(1, 5)]
    if any(vector is None for vector in vectors):
        return None
    gamma, beta, mean, variance = vectors
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon").f)
    return scale, beta - mean * scale


def _vector(
    instance: Instance, node: node_def_pb2.NodeDef, index: int, channels: int
) -> np.ndarray | None:
    """Returns a static operand as one finite number a channel."""
    static = instance.static_inputs.get(node.name, {}).get(index)
    if not isinstance(static, Static):
        return None
    try:
        value = static.value()
    except Unevaluable:
        return None
    if value.size not in (1, channels) or (value.ndim and value.shape[-1] != value.size):
        return None
    vector = np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,))
    return vector if np.isfinite(vector).all() else None
