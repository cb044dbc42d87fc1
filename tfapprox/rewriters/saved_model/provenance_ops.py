"""NumPy meanings of the operations that kernels pass through on their way to a product.

Views wherever NumPy allows: slicing, transposing and reshaping a kernel must not copy
it. Each evaluator takes (attributes, operands, output index).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tensorflow.python.framework import dtypes

Attributes = Mapping[str, Any]
Arrays = list[np.ndarray]
Evaluator = Callable[[Attributes, Arrays, int], np.ndarray]

# Operations that hand their first operand on as it is.
TRANSPARENT = frozenset(
    ("Identity", "Snapshot", "StopGradient", "PreventGradient", "EnsureShape", "CheckNumerics")
)
# Which operands hold entries of the result; the others are shapes, axes and the like.
DATA_OPERANDS = {
    "Split": slice(1, 2),
    "ConcatV2": slice(0, -1),
    **dict.fromkeys(
        ("Transpose", "Reshape", "ExpandDims", "SplitV", "Slice", "StridedSlice"), slice(0, 1)
    ),
    **dict.fromkeys(("Sum", "Mean", "Max", "Shape"), slice(0, 1)),
}
_LARGEST_GROWTH = 64


class Unevaluable(Exception):  # noqa: N818 (an outcome, not a fault)
    """A static value can't be worked out; the message says why, for a verdict."""


def _cast(attributes: Attributes, arrays: Arrays, _: int) -> np.ndarray:
    return arrays[0].astype(dtypes.as_dtype(attributes["DstT"]).as_numpy_dtype)


def _squeeze(attributes: Attributes, arrays: Arrays, _: int) -> np.ndarray:
    axes = attributes.get("squeeze_dims", ())
    return arrays[0].squeeze(tuple(axes) or None)


def _split(attributes: Attributes, arrays: Arrays, index: int) -> np.ndarray:
    axis, array = int(arrays[0]), arrays[1]
    size, rest = divmod(array.shape[axis], attributes["num_split"])
    if rest:
        raise ValueError("sizes of a Split do not match")
    return _take(array, axis, index * size, size)


def _split_v(attributes: Attributes, arrays: Arrays, index: int) -> np.ndarray:
    array, sizes, axis = arrays[0], arrays[1].tolist(), int(arrays[2])
    if -1 in sizes:
        sizes[sizes.index(-1)] = array.shape[axis] - sum(sizes) - 1
    return _take(array, axis, sum(sizes[:index]), sizes[index])


def _unpack(attributes: Attributes, arrays: Arrays, index: int) -> np.ndarray:
    axis = attributes.get("axis", 0)
    return _take(arrays[0], axis, index, 1).squeeze(axis)


def _take(array: np.ndarray, axis: int, start: int, size: int) -> np.ndarray:
    slices = [slice(None)] * array.ndim
    slices[axis] = slice(start, start + size)
    return array[tuple(slices)]


def _slice(attributes: Attributes, arrays: Arrays, _: int) -> np.ndarray:
    array, begins, sizes = arrays
    ends = [
        None if n == -1 else b + n for b, n in zip(begins.tolist(), sizes.tolist(), strict=True)
    ]
    return array[tuple(slice(b, e) for b, e in zip(begins.tolist(), ends, strict=True))]


def _strided_slice(attributes: Attributes, arrays: Arrays, _: int) -> np.ndarray:
    array, begin, end, strides = arrays

    def masked(name: str, position: int) -> bool:
        return bool(attributes.get(name, 0) >> position & 1)

    index: list[Any] = []
    for i, (b, e, s) in enumerate(zip(begin.tolist(), end.tolist(), strides.tolist(), strict=True)):
        if masked("ellipsis_mask", i):
            index.append(Ellipsis)
        elif masked("new_axis_mask", i):
            index.append(np.newaxis)
        elif masked("shrink_axis_mask", i):
            index.append(b)
        else:
            b = None if masked("begin_mask", i) else b
            index.append(slice(b, None if masked("end_mask", i) else e, s))
    return np.asarray(array[tuple(index)])


def _binary(function: Callable) -> Evaluator:
    def evaluate(attributes: Attributes, arrays: Arrays, _: int) -> np.ndarray:
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        if np.prod(shape) > _LARGEST_GROWTH * max(max(x.size for x in arrays), 1):
            raise ValueError(f"broadcasting to {shape} is out of proportion")
        return np.asarray(function(*arrays))

    return evaluate


def _unary(function: Callable) -> Evaluator:
    return lambda attributes, arrays, _: np.asarray(function(arrays[0]))


def _reduction(function: Callable) -> Evaluator:
    def evaluate(attributes: Attributes, arrays: Arrays, _: int) -> np.ndarray:
        axes = tuple(np.atleast_1d(arrays[1]).tolist())
        return np.asarray(function(arrays[0], axes, keepdims=attributes.get("keep_dims", False)))

    return evaluate


def _shape(attributes: Attributes, arrays: Arrays, _: int) -> np.ndarray:
    dtype = dtypes.as_dtype(attributes.get("out_type", dtypes.int32)).as_numpy_dtype
    return np.array(arrays[0].shape, dtype)


def _concat(attributes: Attributes, arrays: Arrays, _: int) -> np.ndarray:
    return np.concatenate(arrays[:-1], axis=int(arrays[-1]))


def _matmul(attributes: Attributes, arrays: Arrays, _: int) -> np.ndarray:
    left, right = (
        array.T if attributes.get(flag, False) else array
        for flag, array in zip(("transpose_a", "transpose_b"), arrays, strict=True)
    )
    if left.shape[0] * right.shape[1] > _LARGEST_GROWTH * max(left.size, right.size):
        raise ValueError(f"a product of {left.shape} and {right.shape} is out of proportion")
    wide = np.result_type(np.float32, left.dtype)
    return (left.astype(wide, copy=False) @ right.astype(wide, copy=False)).astype(left.dtype)


def _einsum(attributes: Attributes, arrays: Arrays, _: int) -> np.ndarray:
    equation = attributes["equation"].decode().replace(" ", "")
    inputs, _arrow, output = equation.partition("->")
    sizes: dict[str, int] = {}
    for labels, array in zip(inputs.split(","), arrays, strict=True):
        sizes.update(zip(labels, array.shape, strict=True))
    made = np.prod([sizes[label] for label in output], dtype=np.int64)
    if made > _LARGEST_GROWTH * max(array.size for array in arrays):
        raise ValueError(f"einsum {equation} of constants is out of proportion")
    wide = np.result_type(np.float32, arrays[0].dtype)
    product = np.einsum(equation, *(array.astype(wide) for array in arrays), optimize=True)
    return product.astype(arrays[0].dtype)


EVALUATORS: dict[str, Evaluator] = {
    "Einsum": _einsum,
    "MatMul": _matmul,
    "Cast": _cast,
    "Transpose": lambda attributes, arrays, _: arrays[0].transpose(arrays[1].tolist()),
    "Reshape": lambda attributes, arrays, _: arrays[0].reshape(arrays[1].tolist()),
    "ExpandDims": lambda attributes, arrays, _: np.expand_dims(arrays[0], int(arrays[1])),
    "Squeeze": _squeeze,
    "Split": _split,
    "SplitV": _split_v,
    "Unpack": _unpack,
    "Slice": _slice,
    "StridedSlice": _strided_slice,
    "ConcatV2": _concat,
    "Pack": lambda attributes, arrays, _: np.stack(arrays, axis=attributes.get("axis", 0)),
    "Shape": _shape,
    "Mul": _binary(np.multiply),
    "Add": _binary(np.add),
    "AddV2": _binary(np.add),
    "Sub": _binary(np.subtract),
    "RealDiv": _binary(np.true_divide),
    "Maximum": _binary(np.maximum),
    "Minimum": _binary(np.minimum),
    "Neg": _unary(np.negative),
    "Sqrt": _unary(np.sqrt),
    "Rsqrt": _unary(lambda x: (1 / np.sqrt(x)).astype(x.dtype)),
    "Square": _unary(np.square),
    "Reciprocal": _unary(lambda x: (1 / x).astype(x.dtype)),
    "Sum": _reduction(np.sum),
    "Mean": _reduction(np.mean),
    "Max": _reduction(np.max),
}
