"""Variables of the main graph that restoring the model computes from stored ones."""

from collections.abc import Mapping

from tensorflow.core.framework import node_def_pb2
from tensorflow.python.framework import dtypes

from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.provenance import Provenance, Static
from tfapprox.rewriters.saved_model.saver import ASSIGNMENTS, SaverSide, tensor_lists


def folded_values(
    side: SaverSide, sizes: Mapping[str, int], provenance: Provenance
) -> dict[str, Static]:
    """Returns main-graph handle -> value of what restoring computes from stored tensors.

    Args:
      side: where the model restores.
      sizes: key of a stored variable -> its entries.
      provenance: makes the values.
    """
    found: dict[str, Static] = {}
    values: dict[str, Static] = {}
    for name in side.body.order:
        node = side.body.nodes[name]
        if name not in side.nodes:
            continue
        if node.op == "RestoreV2":
            values |= _restored(side, node, sizes, provenance)
        elif node.op in ASSIGNMENTS:
            variable, value = side.body.data_inputs(node)[:2]
            handle, static = side.main_graph_node(variable), values.get(value)
            if handle is not None and static is not None and static.inputs:
                found[handle] = static
        else:
            made = _made(side, node, values, provenance)
            if made is not None:
                values[side.body.reference(name, node.op)] = made
    return found


def _restored(
    side: SaverSide, node: node_def_pb2.NodeDef, sizes: Mapping[str, int], provenance: Provenance
) -> dict[str, Static]:
    names, slices = tensor_lists(side.body, node)
    return {
        side.body.reference(node.name, node.op, i): provenance.variable(name, sizes[name])
        for i, (name, piece) in enumerate(zip(names, slices, strict=True))
        if not piece and name in sizes
    }


def _made(
    side: SaverSide,
    node: node_def_pb2.NodeDef,
    values: Mapping[str, Static],
    provenance: Provenance,
) -> Static | None:
    if node.op == "Const":
        text = dtypes.as_dtype(attribute(node, "dtype").type) == dtypes.string
        return None if text else provenance.constant(node)
    operands = [values.get(reference) for reference in side.body.data_inputs(node)]
    statics = [operand for operand in operands if operand is not None]
    if not statics or len(statics) < len(operands):
        return None
    return provenance.operation(node, statics, 0)
