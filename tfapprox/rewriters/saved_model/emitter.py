"""Makes new nodes for a graph or function, in its own notation."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, node_def_pb2

from tfapprox.rewriters.saved_model.body import Body, attribute

Attribute: TypeAlias = bool | int | bytes | Sequence[int] | tf.DType | np.ndarray


@dataclasses.dataclass(frozen=True)
class Factor:
    """A stage's kernel as a tensor of the graph.

    Attributes:
      reference: of the tensor.
      dtype: DataType enum.
      shape: as stored: [in / groups, out] or [height, width, in / groups, out].
    """

    reference: str
    dtype: int
    shape: tuple[int, ...]


class Emitter:
    """Collects new nodes for one body, in its notation, under one name scope."""

    def __init__(
        self,
        body: Body,
        replaced: node_def_pb2.NodeDef,
        taken: set[str],
        enter: node_def_pb2.NodeDef | None = None,
    ):
        """Args:
        replaced: the node whose place is taken; its device and name are inherited.
        taken: node names that exist; grows.
        enter: the Enter node that brings the kernel into a TF1 loop, if there is one.
        """
        self._body, self._replaced, self._taken, self._enter = body, replaced, taken, enter
        self.nodes: list[node_def_pb2.NodeDef] = []

    def add(self, op: str, inputs: Sequence[str], name: str = "", **attributes: Attribute) -> str:
        """Adds a node and returns the reference to its first output."""
        node = node_def_pb2.NodeDef(op=op, name=self._unique(name or op.lower()))
        node.input.extend(inputs)
        node.device = self._replaced.device
        for key, value in attributes.items():
            node.attr[key].CopyFrom(to_attribute(value))
        self.nodes.append(node)
        return self._body.reference(node.name, op)

    def constant(self, value: np.ndarray, name: str) -> str:
        """Adds a Const and returns its reference, usable where the replaced node is."""
        dtype = tf.as_dtype(value.dtype)
        return self.enter(self.add("Const", (), name, value=value, dtype=dtype), dtype)

    def enter(self, reference: str, dtype: tf.DType) -> str:
        """Brings a tensor from outside into the loop that the replaced node is in."""
        if self._enter is None:
            return reference
        name = self.add("Enter", (reference,), "enter", T=dtype)
        for key in ("frame_name", "is_constant", "parallel_iterations"):
            self.nodes[-1].attr[key].CopyFrom(attribute(self._enter, key))
        return name

    def outputs(self, reference: str, count: int) -> list[str]:
        """Returns references to `count` outputs of the node just added."""
        return self._body.output_references(self.nodes[-1], count)

    def output(self, number: int) -> str:
        """Returns the reference to an output argument of the node just added."""
        return self._body.reference(self.nodes[-1].name, self.nodes[-1].op, output=number)

    def rename(self, name: str) -> str:
        """Gives the last node another name in the scope and returns its reference."""
        last = self.nodes[-1]
        last.name = self._unique(name)
        return self._body.reference(last.name, last.op)

    def finish(self) -> str:
        """Gives the last node the replaced node's name and returns its reference."""
        last = self.nodes[-1]
        last.name = self._replaced.name
        for reference in self._replaced.input:
            if reference.startswith("^"):
                last.input.append(reference)
        shapes = self._replaced.attr.get("_output_shapes")
        if shapes is not None:
            last.attr["_output_shapes"].CopyFrom(shapes)
        return self._body.reference(last.name, last.op)

    def _unique(self, name: str) -> str:
        candidate, count = f"{self._replaced.name}/{name}", 0
        while candidate in self._taken:
            count += 1
            candidate = f"{self._replaced.name}/{name}_{count}"
        self._taken.add(candidate)
        return candidate


def to_attribute(value: Attribute) -> attr_value_pb2.AttrValue:
    """Returns a Python value as an attribute of a node."""
    if isinstance(value, bool):
        return attr_value_pb2.AttrValue(b=value)
    if isinstance(value, int):
        return attr_value_pb2.AttrValue(i=value)
    if isinstance(value, bytes):
        return attr_value_pb2.AttrValue(s=value)
    if isinstance(value, tf.DType):
        return attr_value_pb2.AttrValue(type=value.as_datatype_enum)
    if isinstance(value, np.ndarray):
        return attr_value_pb2.AttrValue(tensor=tf.make_tensor_proto(value))
    listed = attr_value_pb2.AttrValue()
    listed.list.i.extend(int(n) for n in value)
    return listed
