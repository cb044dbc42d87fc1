"""Adds a site's offset to the bias that follows it, where there is one.

The sum is then one of two vectors, which costs nothing, and the convolution, its bias and
activation stay next to each other, where TensorFlow fuses them.
"""

import dataclasses

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.emitter import Emitter
from tfapprox.rewriters.saved_model.matching import Match
from tfapprox.rewriters.saved_model.provenance import Static
from tfapprox.rewriters.saved_model.provenance_ops import Unevaluable
from tfapprox.rewriters.saved_model.tracing import Instance

_ADDITIONS = ("BiasAdd", "AddV2", "Add")


@dataclasses.dataclass(frozen=True)
class Bias:
    """What adds a static vector to a site's output, and to nothing else.

    Attributes:
      node: the addition.
      index: of its data input that is the vector.
    """

    node: str
    index: int


def bias_behind(instance: Instance, name: str, channels: int) -> Bias | None:
    """Returns the bias of a node's output, None if there is none or others read the output.

    Args:
      instance: whose body has the node.
      name: of the node.
      channels: size of its output's last axis.
    """
    body = instance.body
    reference = body.reference(name, body.nodes[name].op)
    consumers = body.consumers.get(body.canonical(reference), [])
    if len(consumers) != 1 or reference in body.returns.values() or not body.is_function:
        return None
    consumer, index = consumers[0]
    node = body.nodes[consumer]
    if node.op not in _ADDITIONS or (node.op == "BiasAdd" and index != 0):
        return None
    vector = instance.static_inputs.get(consumer, {}).get(1 - index)
    if not isinstance(vector, Static):
        return None
    try:
        fits = vector.value().shape == (channels,)
    except Unevaluable:
        return None
    return Bias(consumer, 1 - index) if fits else None


def channels_last(node: node_def_pb2.NodeDef, match: Match) -> bool:
    """Says whether a site's output has one axis of channels, the last one."""
    if match.form == "conv2d":
        return attribute(node, "data_format").s != b"NCHW"
    return match.form != "einsum" and match.operand == 1


def emit_shifted(
    emitter: Emitter, addition: node_def_pb2.NodeDef, bias: Bias, offset: np.ndarray
) -> node_def_pb2.NodeDef:
    """Emits bias + offset and returns the addition that takes this instead of the bias."""
    dtype = tf.as_dtype(attribute(addition, "T").type)
    constant = emitter.constant(offset.astype(dtype.as_numpy_dtype), "offset")
    total = emitter.add("AddV2", (addition.input[bias.index], constant), "bias", T=dtype)
    changed = node_def_pb2.NodeDef()
    changed.CopyFrom(addition)
    changed.input[bias.index] = total
    return changed
