"""Recognises linear operations and brings their kernels into one layout, HWIO.

Each form says which operand is the kernel, how it becomes a [height, width, in, out]
matrix of channels, and where the operation runs. What is linear but no site is
refused with a reason in words for the user.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np
from tensorflow.core.framework import node_def_pb2
from tensorflow.python.framework import dtypes

from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Kind
from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.einsum import EinsumProduct, NotAProduct
from tfapprox.rewriters.saved_model.provenance import FLOATS, Static, Value
from tfapprox.rewriters.saved_model.provenance_ops import Unevaluable
from tfapprox.rewriters.saved_model.shapes import Occurrence, Shape

Node: TypeAlias = node_def_pb2.NodeDef
Form = Literal["matmul", "batch_matmul", "einsum", "conv2d"]

FORMS: dict[str, Form] = {
    "MatMul": "matmul",
    "_FusedMatMul": "matmul",
    "BatchMatMul": "batch_matmul",
    "BatchMatMulV2": "batch_matmul",
    "BatchMatMulV3": "batch_matmul",
    "Einsum": "einsum",
    "Conv2D": "conv2d",
    "_FusedConv2D": "conv2d",
}
# Operation types that are linear in activations and a kernel, and why they stay.
KEPT = {
    "DepthwiseConv2dNative": "depthwise: each channel has its own small kernel, nothing to split",
    "Conv2DBackpropInput": "transposed convolution: not factorized",
    "Conv3D": "3-D convolution: not factorized",
    "Conv3DBackpropInputV2": "transposed 3-D convolution: not factorized",
    "GatherV2": "embedding: a table look-up, no product",
    "ResourceGather": "embedding: a table look-up, no product",
    "SparseMatMul": "sparse product: not factorized",
    "SparseTensorDenseMatMul": "sparse product: not factorized",
    "Conv": "generic convolution: not factorized",
    "XlaConvV2": "XLA convolution: not factorized",
    "XlaDotV2": "XLA product: not factorized",
    "CudnnRNNV3": "fused recurrent layer: its kernels are packed",
    "QuantizedMatMul": "quantized product: not factorized",
    "QuantizedConv2D": "quantized convolution: not factorized",
}
LINEAR = frozenset((*FORMS, *KEPT))


class Refused(Exception):  # noqa: N818 (an outcome, not a fault)
    """A linear operation that is no site; the message is the reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """A linear operation with a static kernel.

    Attributes:
      form: how the operation takes its operands.
      kind: in the words of a `Site`.
      operand: which data input is the kernel.
      source: the kernel as the operation sees it.
      kernel: [height, width, in, out], a view of the source where possible.
    """

    form: Form
    kind: Kind
    operand: int
    source: Static
    kernel: np.ndarray


def match(
    node: node_def_pb2.NodeDef,
    values: Mapping[int, Value],
    x_shape: Shape,
    is_known: Callable[[np.ndarray], bool] = lambda kernel: False,
) -> Match:
    """Returns how a node of a type in FORMS uses its kernel.

    Args:
      node: the operation.
      values: data input index -> static value, for the static ones.
      x_shape: shape of the activations as far as known.
      is_known: says whether a kernel is used elsewhere; if a convolution's input
        channels are unknown, it is then taken to be used alike.

    Raises:
      Refused: it is no site.
    """
    form = FORMS[node.op]
    statics = [i for i in (0, 1) if isinstance(values.get(i), Static)]
    if not statics:
        raise Refused("product of two activations")
    if len(statics) == 2:
        raise Refused("product of two constants")
    dtype = attribute(node, "Ta" if node.op == "BatchMatMulV3" else "T").type
    if dtypes.as_dtype(dtype) not in FLOATS:
        raise Refused(f"{dtypes.as_dtype(dtype).name} kernel: only floating point is factorized")
    operand = statics[0]
    source = values[operand]
    assert isinstance(source, Static)
    try:
        if form == "conv2d" and _channels(node, x_shape) is None and is_known(source.value()):
            x_shape = (source.value().shape[2],) * 4
        kind, kernel = _CANONICAL[form](node, operand, source, x_shape)
    except Unevaluable as error:
        raise Refused(f"its kernel can't be worked out: {error}") from error
    if kernel.size == 0:
        raise Refused("empty kernel")
    return Match(form, kind, operand, source, kernel)


def _matmul(node: Node, operand: int, source: Static, _: Shape) -> tuple[Kind, np.ndarray]:
    kernel = source.value()
    if kernel.ndim != 2:
        raise Refused("its kernel has no two axes")
    # With the kernel on the left, y = W x, so the channel matrix is W transposed.
    flag = attribute(node, "transpose_b" if operand else "transpose_a").b
    matrix = kernel.T if flag == bool(operand) else kernel
    return "dense", matrix[None, None]


def _batch_matmul(node: Node, operand: int, source: Static, _: Shape) -> tuple[Kind, np.ndarray]:
    kernel = source.value()
    if node.op == "BatchMatMulV3":
        types = {attribute(node, name).type for name in ("Ta", "Tb", "Tout")}
        if len(types) > 1:
            raise Refused("its operands and result differ in type")
    if kernel.ndim < 2 or kernel.size != np.prod(kernel.shape[-2:]):
        raise Refused("its kernel is a batch of matrices")
    matrix = kernel.reshape(kernel.shape[-2:])
    flag = attribute(node, "adj_y" if operand else "adj_x").b
    matrix = matrix.T if flag == bool(operand) else matrix
    return "dense", matrix[None, None]


def _einsum(node: Node, operand: int, source: Static, _: Shape) -> tuple[Kind, np.ndarray]:
    if attribute(node, "N").i != 2:
        raise Refused(f"einsum of {attribute(node, 'N').i} operands")
    try:
        product = EinsumProduct.parse(attribute(node, "equation").s.decode(), operand)
    except NotAProduct as error:
        raise Refused(str(error)) from error
    kernel = source.value()
    if kernel.ndim != len(product.kernel):
        raise Refused("its kernel doesn't fit the equation")
    return "einsum", product.matrix(kernel)[None, None]


def _conv2d(node: Node, operand: int, source: Static, x_shape: Shape) -> tuple[Kind, np.ndarray]:
    if operand != 1:
        raise Refused("convolution of a constant with an activation as kernel")
    kernel = source.value()
    if kernel.ndim != 4:
        raise Refused("its kernel has no four axes")
    channels = _channels(node, x_shape)
    if channels is None:
        raise Refused("the channels of its input are unknown")
    if channels != kernel.shape[2]:
        groups = channels // max(kernel.shape[2], 1)
        raise Refused(f"grouped convolution ({groups} groups): not factorized")
    flat = source.op == "ExpandDims" and kernel.shape[0] == 1
    return ("conv1d" if flat else "conv2d"), kernel


_CANONICAL: dict[Form, Callable] = {
    "matmul": _matmul,
    "batch_matmul": _batch_matmul,
    "einsum": _einsum,
    "conv2d": _conv2d,
}


def _channels(node: node_def_pb2.NodeDef, x_shape: Shape) -> int | None:
    axis = 1 if attribute(node, "data_format").s == b"NCHW" else 3
    return x_shape[axis] if x_shape and len(x_shape) == 4 else None


def spatial_axes(node: node_def_pb2.NodeDef) -> tuple[int, int]:
    """Returns the height and width axes of a Conv2D's activations."""
    return (2, 3) if attribute(node, "data_format").s == b"NCHW" else (1, 2)


def conv_geometry(node: node_def_pb2.NodeDef, input_size: tuple[int, int]) -> Geometry:
    """Returns strides, dilations and padding of a Conv2D node."""
    height, width = spatial_axes(node)
    strides = attribute(node, "strides").list.i
    dilations = attribute(node, "dilations").list.i or [1, 1, 1, 1]
    padding = attribute(node, "padding").s.decode()
    if padding == "EXPLICIT":
        counts = attribute(node, "explicit_paddings").list.i
        padding = tuple((counts[2 * axis], counts[2 * axis + 1]) for axis in (height, width))
    return Geometry(
        strides=(strides[height], strides[width]),
        dilations=(dilations[height], dilations[width]),
        padding=padding,
        input_size=input_size,
    )


def geometries(
    found: Match, node: node_def_pb2.NodeDef, place: Occurrence
) -> tuple[tuple[Geometry, ...], bool]:
    """Returns the geometry of one use, and whether all its sizes are known.

    A convolution that runs several times for one example (in a loop, or with examples
    folded into its batch) gives as many geometries; a dense product counts rows.
    """
    shape = place.inputs[1 - found.operand]
    if found.form == "conv2d":
        batch, *size = _at(shape, (0, *spatial_axes(node)))
        known = None not in (batch, *size)
        geometry = conv_geometry(node, (max(size[0] or 1, 1), max(size[1] or 1, 1)))
        return (geometry,) * (place.repeats * (batch or 1)), known
    positions = _positions(found, node, shape)
    count = int(np.prod([n or 1 for n in positions], dtype=np.int64))
    return (Geometry(input_size=(place.repeats, max(count, 1))),), None not in positions


def _positions(found: Match, node: node_def_pb2.NodeDef, shape: Shape) -> list[int | None]:
    if shape is None:
        return [None]
    if found.form == "einsum":
        equation = attribute(node, "equation").s.decode()
        return EinsumProduct.parse(equation, found.operand).positions(shape)
    names = ("adj_x", "adj_y") if found.form == "batch_matmul" else ("transpose_a", "transpose_b")
    transposed = attribute(node, names[1 - found.operand]).b
    # Activations on the left hold their rows first, on the right their columns last.
    axis = -2 if bool(found.operand) != transposed else -1
    return [*shape[:-2], shape[axis]]


def _at(shape: Shape, axes: tuple[int, ...]) -> list[int | None]:
    return [shape[axis] if shape else None for axis in axes]
