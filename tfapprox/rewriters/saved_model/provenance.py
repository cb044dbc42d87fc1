"""Where a kernel comes from: values that depend on variables and constants alone.

A `Static` is an expression over variables and constants. Equal expressions are one
object, and each is evaluated once, with NumPy, as a view of the variable where the
operation allows it: so two places that use the same kernel see the same memory, and
that is how a shared kernel is recognised (`same_kernel_key`).
"""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable

import numpy as np
from tensorflow.core.framework import node_def_pb2, tensor_pb2
from tensorflow.python.framework import dtypes, tensor_util

from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.provenance_ops import (
    DATA_OPERANDS,
    EVALUATORS,
    TRANSPARENT,
    Evaluator,
    Unevaluable,
)

# A hostile graph can make much out of little: what is worked out may have so many entries
# in any case, and so many times those that are stored.
_FREE_ENTRIES, _LARGEST_SHARE = 2**26, 16

FLOATS = frozenset((dtypes.half, dtypes.bfloat16, dtypes.float32, dtypes.float64))


@dataclasses.dataclass(frozen=True)
class Handle:
    """A resource handle (or TF1 reference) of the variable `key`."""

    key: str

    @property
    def roots(self) -> frozenset[str]:
        return frozenset((self.key,))


class Static:
    """The value of one output of an operation on static values, or a leaf.

    Attributes:
      op: operation type, "Variable" or "Const" for leaves.
      inputs: static operands.
      index: which output of the operation.
      roots: keys of the variables and digests of the constants whose entries it holds;
        those that only say how to slice or reshape are left out.
    """

    def __init__(
        self,
        op: str,
        inputs: tuple["Static", ...],
        roots: frozenset[str],
        evaluate: Callable[[list[np.ndarray]], np.ndarray],
        index: int = 0,
    ):
        self.op, self.inputs, self.roots, self.index = op, inputs, roots, index
        self._evaluate = evaluate
        self._value: np.ndarray | None = None

    def value(self) -> np.ndarray:
        """Returns the value, computed once.

        Raises:
          Unevaluable: the operation can't be evaluated on these operands.
        """
        stack = [self]
        while stack:
            top = stack[-1]
            missing = [x for x in top.inputs if x._value is None]
            if missing:
                stack.extend(missing)
                continue
            if top._value is None:
                top._value = top._guarded([x._value for x in top.inputs])
            stack.pop()
        assert self._value is not None
        return self._value

    def _guarded(self, operands: list) -> np.ndarray:
        try:
            return self._evaluate(operands)
        except (ValueError, TypeError, IndexError, MemoryError, ArithmeticError) as error:
            raise Unevaluable(f"{self.op} of constants failed: {error}") from error


Value = Handle | Static


class Provenance:
    """Makes static values, one object for each distinct expression."""

    def __init__(self, read_variable: Callable[[str], np.ndarray]):
        """Args: read_variable: key -> value of the variable, called once a variable."""
        self._read = read_variable
        self._known: dict[tuple, Static] = {}
        self._made = 0
        self._stored = 0
        self.root_sizes: dict[str, int] = {}

    def variable(self, key: str, size: int) -> Static:
        """Returns the value of a variable of `size` entries."""
        if key not in self.root_sizes:
            self._stored += size
        self.root_sizes.setdefault(key, size)
        return self._intern(
            ("Variable", key),
            lambda: Static("Variable", (), frozenset((key,)), lambda _: self._read(key)),
        )

    def constant(self, node: node_def_pb2.NodeDef) -> Static:
        """Returns the value of a Const node; constants of equal content are one."""
        proto = attribute(node, "value").tensor
        content = proto.tensor_content or proto.SerializeToString(deterministic=True)
        header = f"{proto.dtype}{[d.size for d in proto.tensor_shape.dim]}".encode()
        root = "const:" + hashlib.sha1(header + b"|" + content).hexdigest()
        if root not in self.root_sizes:
            self._stored += min(_entries(proto), proto.ByteSize())
        self.root_sizes.setdefault(root, _entries(proto))
        return self._intern(
            ("Const", root),
            lambda: Static("Const", (), frozenset((root,)), lambda _: _decode(proto)),
        )

    def operation(
        self, node: node_def_pb2.NodeDef, operands: list[Static], index: int
    ) -> Static | None:
        """Returns output `index` of the node on static operands, or None if it isn't pure."""
        if node.op in TRANSPARENT or _is_float_cast(node):
            return operands[0]
        evaluator = EVALUATORS.get(node.op)
        if evaluator is None:
            return None
        attributes = _attributes(node)
        key = (node.op, tuple(map(id, operands)), index, attributes)

        def make() -> Static:
            carriers = DATA_OPERANDS.get(node.op, slice(None))
            roots = frozenset().union(*(x.roots for x in operands[carriers]))
            settings = dict(attributes)
            return Static(
                node.op,
                tuple(operands),
                roots,
                lambda arrays: self._evaluate(node.op, evaluator, settings, arrays, index),
                index,
            )

        return self._intern(key, make)

    def _evaluate(
        self, op: str, evaluator: Evaluator, settings: dict, arrays: list[np.ndarray], index: int
    ) -> np.ndarray:
        """Returns what the evaluator does, unless a few nodes would make gigabytes out of little.

        Raises:
          Unevaluable: all that was worked out would be out of proportion to what is stored.
        """
        size = _largest_result(op, arrays)
        if self._made + size > _FREE_ENTRIES + _LARGEST_SHARE * self._stored:
            raise Unevaluable(f"{size} entries out of what is stored are out of proportion")
        value = evaluator(settings, arrays, index)
        if value.base is None:
            self._made += value.size
        return value

    def _intern(self, key: tuple, make: Callable[[], Static]) -> Static:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def same_kernel_key(kernel: np.ndarray) -> tuple:
    """Returns a key that two views share exactly when they show the same memory alike."""
    pointer = kernel.__array_interface__["data"][0]
    spread = [(n, s) for n, s in zip(kernel.shape, kernel.strides, strict=True) if n != 1]
    return (pointer, kernel.dtype.str, *spread)


def _is_float_cast(node: node_def_pb2.NodeDef) -> bool:
    # The factors keep the dtype the kernel is stored in and are cast where they are used.
    if node.op != "Cast":
        return False
    return all(dtypes.as_dtype(attribute(node, k).type) in FLOATS for k in ("SrcT", "DstT"))


def _attributes(node: node_def_pb2.NodeDef) -> tuple:
    pairs = []
    for name in sorted(name for name in node.attr if not name.startswith("_")):
        value = attribute(node, name)
        kind = value.WhichOneof("value")
        if kind == "list":
            pairs.append((name, tuple(value.list.i)))
        elif kind in ("i", "f", "b", "s", "type"):
            pairs.append((name, getattr(value, kind)))
    return tuple(pairs)


def _largest_result(op: str, arrays: list[np.ndarray]) -> int:
    """Returns how many entries an operation can make of its operands, at most."""
    if op in ("ConcatV2", "Pack"):
        return sum(array.size for array in arrays)
    if len(arrays) == 2:
        with contextlib.suppress(ValueError):  # then it is no broadcasting operation
            return math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
    return max(array.size for array in arrays)


def _entries(proto: tensor_pb2.TensorProto) -> int:
    return math.prod(max(d.size, 0) for d in proto.tensor_shape.dim)


def _decode(proto: tensor_pb2.TensorProto) -> np.ndarray:
    size = _entries(proto)
    if size > _FREE_ENTRIES and size > _LARGEST_SHARE * proto.ByteSize():
        raise Unevaluable(f"a constant of {size} entries is stored in {proto.ByteSize()} bytes")
    try:
        return np.asarray(tensor_util.MakeNdarray(proto))
    except (TypeError, ValueError) as error:
        raise Unevaluable(f"a constant can't be read: {error}") from error
