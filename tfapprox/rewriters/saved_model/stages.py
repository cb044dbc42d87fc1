"""Writes a chain of stages as standard operations in the place of one node.

Everything emitted runs on a CPU in the C++ runtime and has gradients. Grouped stages
are split, multiplied and joined: TensorFlow's grouped Conv2D has no gradient on CPUs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.body import Body, attribute
from tfapprox.rewriters.saved_model.column_row import SampledStage, emit_sampling
from tfapprox.rewriters.saved_model.einsum import EinsumProduct
from tfapprox.rewriters.saved_model.emitter import Attribute, Emitter, Factor, to_attribute
from tfapprox.rewriters.saved_model.matching import Match, conv_geometry
from tfapprox.rewriters.saved_model.observing import ObservedStage, emit_observer


def emit_chain(
    emitter: Emitter,
    body: Body,
    node: node_def_pb2.NodeDef,
    match: Match,
    factorization: Factorization,
    factors: Sequence[Factor],
    flipped: bool,
) -> str:
    """Emits the stages in the place of `node` and returns the reference to the result."""
    chain = _CHAINS[match.form](emitter, node, match)
    x = body.data_inputs(node)[1 - match.operand]
    links = list(zip(factorization.stages, factors, strict=True))
    order = factorization.output_order
    if flipped:
        links.reverse()
        x = chain.permute(x, None if order is None else np.argsort(order), first=True)
    offset = None
    if factorization.offset is not None and not flipped:
        value = factorization.offset.astype(tf.as_dtype(chain.dtype).as_numpy_dtype)
        offset = emitter.constant(value, "offset")
    last = len(links) - 1
    if node.op.startswith("_Fused") and (order is not None or links[-1][0].groups > 1):
        raise UserError(
            f"{node.name} is a fused operation: its last stage can't be grouped or "
            "reordered; choose another decomposition or --exclude it"
        )
    for index, (stage, factor) in enumerate(links):
        before = stage.input_order
        if not flipped:
            x = chain.permute(x, before, first=index == 0)
        factor = _in_dtype(emitter, factor, chain.dtype)
        place = _Place(index == 0, index == last, len(links), flipped)
        if isinstance(stage, SampledStage):
            axis, rank = chain.axis(place.first), chain.rank()
            x, factor = emit_sampling(emitter, x, factor, stage, axis, rank, flipped)
        if isinstance(stage, ObservedStage) and not flipped:
            axis = chain.axis(True)
            factor, added = emit_observer(emitter, x, factor, stage, node, match, axis)
            offset = added if stage.adds else None
        x = chain.stage(x, stage, factor, place)
        if flipped and before is not None:
            x = chain.permute(x, np.argsort(before), first=False)
    if not flipped and order is not None:
        x = chain.reorder(x, order, chain.output_axis())
    if offset is not None:
        chain.add_offset(x, offset)
    return emitter.finish()


def takes_offset(node: node_def_pb2.NodeDef, match: Match) -> bool:
    """Says whether a vector can be added to the operation's output channels."""
    if node.op.startswith("_Fused"):
        return False  # its bias and activation come before
    if match.form != "einsum":
        return True
    return EinsumProduct.parse(attribute(node, "equation").s.decode(), match.operand).ends_in_free


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a stage stands in its chain."""

    first: bool
    last: bool
    length: int
    flipped: bool


def _in_dtype(emitter: Emitter, factor: Factor, dtype: int) -> Factor:
    if factor.dtype == dtype:
        return factor
    kinds = {"SrcT": tf.as_dtype(factor.dtype), "DstT": tf.as_dtype(dtype)}
    return Factor(emitter.add("Cast", (factor.reference,), "cast", **kinds), dtype, factor.shape)


class _Chain:
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

    def product(self, x: str, stage: Stage, factor: Factor, place: _Place) -> str:
        """Emits one ungrouped stage."""
        raise NotImplementedError

    def stage(self, x: str, stage: Stage, factor: Factor, place: _Place) -> str:
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


class _MatMulChain(_Chain):
    """MatMul and BatchMatMul, with the kernel on either side."""

    def __init__(self, emitter: Emitter, node: node_def_pb2.NodeDef, match: Match):
        super().__init__(emitter, node, match)
        self._right = match.operand == 1
        self._batch = match.form == "batch_matmul"
        self._flags = ("adj_x", "adj_y") if self._batch else ("transpose_a", "transpose_b")
        self._x_transposed = attribute(node, self._flags[1 - match.operand]).b

    def axis(self, first: bool) -> int:
        transposed = first and self._x_transposed
        axis = -1 if self._right != transposed else -2
        return axis if self._batch else axis + 2

    def rank(self) -> int | None:
        return None if self._batch else 2

    def _offset_shape(self) -> list[int]:
        return [-1] if self._right else [-1, 1]

    def product(self, x: str, stage: Stage, factor: Factor, place: _Place) -> str:
        shape = factor.shape[-2:]
        if self._batch and self._match.source.value().ndim > 2:
            shape = (1,) * (self._match.source.value().ndim - 2) + shape
        kernel = self._reshape(factor, shape)
        kernel_transposed = place.flipped == self._right
        flags = [kernel_transposed, kernel_transposed]
        flags[1 - self._match.operand] = place.first and self._x_transposed
        attributes = dict(zip(self._flags, flags, strict=True))
        if self._node.op == "_FusedMatMul" and place.last:
            return self._fused("last", x, kernel, **attributes)
        operands = (x, kernel) if self._right else (kernel, x)
        op = "BatchMatMulV2" if self._batch else "MatMul"
        kind = tf.as_dtype(self.dtype)
        return self._emitter.add(op, operands, "stage", T=kind, **attributes)


class _EinsumChain(_Chain):
    """Einsum: the first stage contracts, the last brings in the kernel's free labels."""

    def __init__(self, emitter: Emitter, node: node_def_pb2.NodeDef, match: Match):
        super().__init__(emitter, node, match)
        equation = attribute(node, "equation").s.decode()
        self._product = EinsumProduct.parse(equation, match.operand)
        self._shape = match.source.value().shape

    def axis(self, first: bool) -> int:
        if not first:
            return -1
        before, dots, after = self._product.x.partition("...")
        label = self._product.contracted[0]
        if dots and label in after:
            return after.index(label) - len(after)
        return before.index(label)

    def rank(self) -> int | None:
        return None if "..." in self._product.x else len(self._product.x)

    def output_axis(self) -> int:
        before, dots, after = self._product.out.partition("...")
        label = self._product.free[0]
        if dots and label in after:
            return after.index(label) - len(after)
        return before.index(label)

    def _offset_shape(self) -> list[int]:
        return self._product.sizes(self._shape, self._product.free)

    def stage(self, x: str, stage: Stage, factor: Factor, place: _Place) -> str:
        inner = place.first and not place.last and len(self._product.contracted) == 1
        if stage.groups > 1 and not inner:
            raise UserError(
                f"{self._node.name}: this einsum takes no grouped stage; choose slices=1 "
                "or --exclude it"
            )
        return super().stage(x, stage, factor, place)

    def reorder(self, x: str, order: np.ndarray, axis: int) -> str:
        if len(self._product.contracted) > 1 or len(self._product.free) > 1:
            raise UserError(
                f"{self._node.name}: an einsum over several axes can't reorder channels; "
                "choose another decomposition or --exclude it"
            )
        return super().reorder(x, order, axis)

    def product(self, x: str, stage: Stage, factor: Factor, place: _Place) -> str:
        chain = self._product.chain(place.length)
        index = 0 if place.first else -1 if place.last else 1
        equation, rows, columns = chain[index]
        shape = []
        for labels, size in ((rows, factor.shape[-2]), (columns, factor.shape[-1])):
            known = all(label in self._product.kernel for label in labels)
            several = known and len(labels) > 1
            shape += self._product.sizes(self._shape, labels) if several else [size]
        kind = tf.as_dtype(self.dtype)
        inputs = (x, self._reshape(factor, shape))
        return self._emitter.add("Einsum", inputs, "stage", N=2, T=kind, equation=equation.encode())


class _ConvChain(_Chain):
    """Conv2D; each stage takes over strides, padding and dilations on the axes it holds."""

    def axis(self, first: bool) -> int:
        return 1 if attribute(self._node, "data_format").s == b"NCHW" else 3

    def rank(self) -> int | None:
        return 4

    def add_offset(self, x: str, offset: str) -> str:
        layout = attribute(self._node, "data_format").s or b"NHWC"
        kind = tf.as_dtype(self.dtype)
        return self._emitter.add("BiasAdd", (x, offset), "sum", T=kind, data_format=layout)

    def stage(self, x: str, stage: Stage, factor: Factor, place: _Place) -> str:
        attributes = self._attributes(stage)
        if stage.groups > 1 and stage.kernel.shape[2] == 1 and self._depthwise(attributes):
            height, width, _, out_channels = stage.kernel.shape
            shape = (height, width, stage.groups, out_channels // stage.groups)
            attributes.pop("explicit_paddings")
            return self._emitter.add(
                "DepthwiseConv2dNative", (x, self._reshape(factor, shape)), "stage", **attributes
            )
        return super().stage(x, stage, factor, place)

    def product(self, x: str, stage: Stage, factor: Factor, place: _Place) -> str:
        shape = (*stage.kernel.shape[:2], *factor.shape[-2:])
        kernel = self._reshape(factor, shape)
        attributes = self._attributes(stage)
        if self._node.op == "_FusedConv2D" and place.last:
            return self._fused("last", x, kernel, **attributes)
        return self._emitter.add("Conv2D", (x, kernel), "stage", **attributes)

    def _attributes(self, stage: Stage) -> dict:
        channels_first = attribute(self._node, "data_format").s == b"NCHW"
        placed = conv_geometry(self._node, (1, 1)).restrict(stage.axes, (1, 1))
        padding = placed.padding

        def spread(pair: tuple, outer: Any) -> list:
            return [outer, outer, *pair] if channels_first else [outer, *pair, outer]

        pads = [] if isinstance(padding, str) else spread(padding, (0, 0))
        return {
            "T": tf.as_dtype(self.dtype),
            "strides": spread(placed.strides, 1),
            "dilations": spread(placed.dilations, 1),
            "padding": padding.encode() if isinstance(padding, str) else b"EXPLICIT",
            "explicit_paddings": [n for pair in pads for n in pair],
            "data_format": b"NCHW" if channels_first else b"NHWC",
        }

    def _depthwise(self, attributes: Mapping) -> bool:
        """Says whether TensorFlow's depthwise operation can place such a stage on a CPU."""
        strides = attributes["strides"]
        return (
            attributes["data_format"] == b"NHWC"
            and attributes["padding"] != b"EXPLICIT"
            and strides[1] == strides[2]
            and set(attributes["dilations"]) == {1}
        )


_CHAINS = {
    "matmul": _MatMulChain,
    "batch_matmul": _MatMulChain,
    "einsum": _EinsumChain,
    "conv2d": _ConvChain,
}
