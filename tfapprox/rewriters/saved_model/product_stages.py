"""Stages of matrix products and einsums."""

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from tfapprox.accounting.factorization import Stage
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.einsum import EinsumProduct
from tfapprox.rewriters.saved_model.emitter import Emitter, Factor
from tfapprox.rewriters.saved_model.matching import Match
from tfapprox.rewriters.saved_model.stage_emitter import Place, StageEmitter


class MatMulStages(StageEmitter):
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

    def product(self, x: str, stage: Stage, factor: Factor, place: Place) -> str:
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


class EinsumStages(StageEmitter):
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

    def stage(self, x: str, stage: Stage, factor: Factor, place: Place) -> str:
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

    def spread(self, factor: Factor) -> Factor:
        shape = (factor.shape[0], *self._product.sizes(self._shape, self._product.free))
        return Factor(self._reshape(factor, shape), factor.dtype, shape)

    def rows(self, factor: Factor, flipped: bool) -> int:
        return 0

    def product(self, x: str, stage: Stage, factor: Factor, place: Place) -> str:
        chain = self._product.chain(place.length)
        index = 0 if place.first else -1 if place.last else 1
        equation, rows, columns = chain[index]
        shape = []
        fan_in = factor.shape[-2] if len(factor.shape) == 2 else factor.shape[0]
        for labels, size in ((rows, fan_in), (columns, factor.shape[-1])):
            known = all(label in self._product.kernel for label in labels)
            several = known and len(labels) > 1
            shape += self._product.sizes(self._shape, labels) if several else [size]
        kind = tf.as_dtype(self.dtype)
        inputs = (x, self._reshape(factor, shape))
        return self._emitter.add("Einsum", inputs, "stage", N=2, T=kind, equation=equation.encode())
