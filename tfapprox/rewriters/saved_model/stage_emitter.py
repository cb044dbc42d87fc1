"""What all forms of linear operation share when their stages are written as operations."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from tfapprox.accounting.factorization import Stage
from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.emitter import Attribute, Emitter, Factor, to_attribute
from tfapprox.rewriters.saved_model.matching import Match


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a stage stands in its chain."""

    first: bool
    last: bool
    length: int
    flipped: bool


class StageEmitter:
    """One form of linear operation; `axis` is where the activations keep their channels."""

    def __init__(self, emitter: Emitter, node: node_def_pb2.NodeDef, match: Match):
        self._emitter, self._node, self._match = emitter, node, match
        name = "Ta" if node.op == "BatchMatMulV3" else "T"
        self.dtype = attribute(node, name).type

    def axis(self, first: bool) -> int:
        raise NotImplementedError

    def rank(self) -> int | None:
        """Returns the number of axes of the activations, None if it is open."""
        raise NotImplementedError

    def spread(self, factor: Factor) -> Factor:
        """Emits the kernel in the shape in which the operation takes it."""
        return factor

    def rows(self, factor: Factor, flipped: bool) -> int:
        """Returns the axis of such a kernel that is summed over."""
        return len(factor.shape) - (1 if flipped else 2)

    def product(self, x: str, stage: Stage, factor: Factor, place: Place) -> str:
        """Emits one ungrouped stage."""
        raise NotImplementedError

    def stage(self, x: str, stage: Stage, factor: Factor, place: Place) -> str:
        """Emits a stage, its groups one by one."""
        if stage.groups == 1:
            return self.product(x, stage, factor, place)
        fan_in, fan_out = factor.shape[-2:]
        rank = len(factor.shape)
        kernels = self._split(factor.reference, rank - 1, stage.groups)
        parts = self._split(x, self.axis(place.first), stage.groups)
        shape = (*factor.shape[:-2], fan_in, fan_out // stage.groups)
        results = [
            self.product(part, stage, Factor(kernel, factor.dtype, shape), place)
            for part, kernel in zip(parts, kernels, strict=True)
        ]
        axis = self._scalar(self.axis(False))
        attributes = {"N": stage.groups, "T": tf.as_dtype(self.dtype), "Tidx": tf.int32}
        return self._emitter.add("ConcatV2", (*results, axis), "join", **attributes)

    def output_axis(self) -> int:
        """Returns where the result keeps its channels."""
        return self.axis(False)

    def add_offset(self, x: str, offset: str) -> str:
        """Emits x plus a vector over the output channels."""
        shape = self._offset_shape()
        if len(shape) > 1:
            target = self._emitter.constant(np.array(shape, np.int32), "shape")
            kinds = {"T": tf.as_dtype(self.dtype), "Tshape": tf.int32}
            offset = self._emitter.add("Reshape", (offset, target), "offset", **kinds)
        return self._emitter.add("AddV2", (x, offset), "sum", T=tf.as_dtype(self.dtype))

    def _offset_shape(self) -> list[int]:
        """Returns the shape in which a vector of output channels broadcasts to the output."""
        return [-1]

    def permute(self, x: str, order: np.ndarray | None, first: bool) -> str:
        """Emits take(x, order) along the channels of a stage's input."""
        return x if order is None else self.reorder(x, order, self.axis(first))

    def reorder(self, x: str, order: np.ndarray, axis: int) -> str:
        """Emits take(x, order, axis)."""
        indices = self._emitter.constant(np.asarray(order, np.int32), "order")
        return self._emitter.add(
            "GatherV2",
            (x, indices, self._scalar(axis)),
            "reorder",
            Tparams=tf.as_dtype(self.dtype),
            Tindices=tf.int32,
            Taxis=tf.int32,
            batch_dims=0,
        )

    def _split(self, x: str, axis: int, parts: int) -> list[str]:
        kind = tf.as_dtype(self.dtype)
        inputs = (self._scalar(axis), x)
        made = self._emitter.add("Split", inputs, "split", num_split=parts, T=kind)
        return self._emitter.outputs(made, parts)

    def _scalar(self, value: int) -> str:
        return self._emitter.constant(np.array(value, np.int32), "axis")

    def _reshape(self, factor: Factor, shape: Sequence[int]) -> str:
        if tuple(shape) == factor.shape:
            return factor.reference
        target = self._emitter.constant(np.array(shape, np.int32), "shape")
        kinds = {"T": tf.as_dtype(factor.dtype), "Tshape": tf.int32}
        return self._emitter.add("Reshape", (factor.reference, target), "reshape", **kinds)

    def _fused(self, name: str, x: str, factor: str, **attributes: Attribute) -> str:
        """Emits the last stage of a fused operation, with its bias and activation."""
        reference = self._emitter.add(self._node.op, (x, factor), name)
        made = self._emitter.nodes[-1]
        extra = [i for i in self._node.input if not i.startswith("^")][2:]
        made.input.extend(extra)
        for key, value in self._node.attr.items():
            made.attr[key].CopyFrom(value)
        for key, setting in attributes.items():
            made.attr[key].CopyFrom(to_attribute(setting))
        return reference
