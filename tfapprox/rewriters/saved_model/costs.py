"""What linear operations cost that are kept as they are."""

import numpy as np
from tensorflow.core.framework import node_def_pb2

from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.shapes import Occurrence, Shape


def kept_macs(node: node_def_pb2.NodeDef, place: Occurrence) -> int:
    """Returns multiply-adds of one occurrence for one example, 0 for what is not counted.

    Unknown sizes count as 1.
    """
    inputs, output = place.inputs, place.output
    if node.op in ("MatMul", "_FusedMatMul"):
        macs = _size(output) * _axis(inputs[0], -2 if attribute(node, "transpose_a").b else -1)
    elif node.op.startswith("BatchMatMul"):
        macs = _size(output) * _axis(inputs[0], -2 if attribute(node, "adj_x").b else -1)
    elif node.op == "Einsum":
        macs = _einsum(node, inputs)
    elif node.op in ("Conv2D", "_FusedConv2D", "Conv3D"):
        macs = _size(output) * _size(inputs[1] and inputs[1][:-1])
    elif node.op == "DepthwiseConv2dNative":
        macs = _size(output) * _size(inputs[1] and inputs[1][:2])
    elif node.op in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):
        macs = _size(inputs[2]) * _size(inputs[1] and inputs[1][:-1])
    else:
        macs = 0
    return macs * place.repeats


def _einsum(node: node_def_pb2.NodeDef, inputs: tuple[Shape, ...]) -> int:
    operands = attribute(node, "equation").s.decode().replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for labels, shape in zip(operands, inputs, strict=False):
        if shape is None:
            continue
        open_axes = len(shape) - len(labels.replace("...", ""))
        names = labels.replace("...", "".join(chr(1 + i) for i in range(open_axes)))
        for label, size in zip(names, shape, strict=False):
            sizes[label] = max(sizes.get(label, 1), size or 1)
    return int(np.prod(list(sizes.values()), dtype=np.int64))


def _size(shape: Shape) -> int:
    return int(np.prod([n or 1 for n in shape or ()], dtype=np.int64))


def _axis(shape: Shape, axis: int) -> int:
    return (shape[axis] or 1) if shape and len(shape) >= -axis else 1
