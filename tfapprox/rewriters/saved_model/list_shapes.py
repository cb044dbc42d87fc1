"""Shapes of tensor lists, which TensorFlow's shape functions do not follow.

A loop writes what it makes, step by step, into a list, and the list is stacked in the end:
the recurrent layers that return sequences. How long it is shows only where it was made, and
for how many examples only where it was filled.
"""

import dataclasses
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import node_def_pb2
from tensorflow.python.framework import smart_cond

from tfapprox.rewriters.saved_model.body import attribute

_UNKNOWN = tf.TensorShape(None)


@dataclasses.dataclass(frozen=True)
class _List:
    """What is known of a list: its length, and the shape of its elements."""

    length: int | None
    element: tf.TensorShape = _UNKNOWN

    def filled_with(self, item: tf.TensorShape, grows: bool) -> "_List":
        element = self.element
        if element.rank is None:
            element = item
        elif item.rank is not None:
            element = element.most_specific_compatible_shape(item)
        return _List(None if grows else self.length, element)


class ListShapes:
    """Follows lists through the operations of a scratch graph, in the order of their making."""

    def __init__(self) -> None:
        self._lists: dict[Any, _List] = {}

    def follow(self, node: node_def_pb2.NodeDef, operands: list[Any], outputs: list[Any]) -> None:
        """Notes what is known of a list that comes out, or completes what is read of one.

        Args:
          node: of any operation.
          operands, outputs: its tensors; the output's shape may be completed.
        """
        if node.op == "TensorListReserve":
            self._lists[outputs[0].ref()] = _List(constant_size(operands[1]))
        elif node.op == "TensorListFromTensor" and operands[0].shape.rank:
            length, *element = operands[0].shape
            self._lists[outputs[0].ref()] = _List(length, tf.TensorShape(element))
        elif operands and operands[0].dtype == tf.variant:
            known = self._lists.get(operands[0].ref())
            if known is not None:
                self._pass_on(known, node, operands, outputs)

    def _pass_on(
        self, known: _List, node: node_def_pb2.NodeDef, operands: list[Any], outputs: list[Any]
    ) -> None:
        if node.op == "Identity":
            self._lists[outputs[0].ref()] = known
        elif node.op == "TensorListSetItem":
            grows = attribute(node, "resize_if_index_out_of_bounds").b
            self._lists[outputs[0].ref()] = known.filled_with(operands[2].shape, grows)
        elif node.op == "TensorListGetItem":
            outputs[0].set_shape(known.element)
        elif node.op == "TensorListStack" and known.element.rank is not None:
            outputs[0].set_shape([known.length, *known.element])
        elif node.op == "TensorListStack" and outputs[0].shape.rank:
            outputs[0].set_shape([known.length, *outputs[0].shape[1:]])


def constant_size(tensor: tf.Tensor | None) -> int | None:
    """Returns the value of an integer, if it is a constant above 0."""
    if tensor is None or not tensor.dtype.is_integer or tensor.shape.rank != 0:
        return None
    value = smart_cond.smart_constant_value(tensor)
    return int(value) if value is not None and value > 0 else None
