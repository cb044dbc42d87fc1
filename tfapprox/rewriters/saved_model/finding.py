"""Finds every kernel of a SavedModel, the linear operations that stay, and all reasons."""

from collections.abc import Mapping

from tensorflow.core.protobuf import meta_graph_pb2

from tfapprox.rewriters.inspection import KeptOperation
from tfapprox.rewriters.saved_model.body import attribute, producer_of
from tfapprox.rewriters.saved_model.layout import Layout
from tfapprox.rewriters.saved_model.matching import FORMS
from tfapprox.rewriters.saved_model.other_uses import reject_other_uses
from tfapprox.rewriters.saved_model.provenance import Provenance
from tfapprox.rewriters.saved_model.shapes import Occurrence, Shape
from tfapprox.rewriters.saved_model.sites import (
    KernelUses,
    SiteFinder,
    count_occurrences,
    kept_operation,
)
from tfapprox.rewriters.saved_model.tracing import Instance, Tracer
from tfapprox.rewriters.saved_model.variables import VariableTable


def find_kernels(
    meta: meta_graph_pb2.MetaGraphDef,
    tracer: Tracer,
    table: VariableTable,
    provenance: Provenance,
    layouts: Mapping[str, Layout],
) -> tuple[list[KernelUses], tuple[KeptOperation, ...]]:
    """Returns every static kernel with its uses, and the operations without one that stay.

    Args:
      layouts: of the signatures; the first is the one whose costs count.
    """
    finder = SiteFinder(provenance, table)
    for layout in layouts.values():
        for place in layout.places:
            _look_at(finder, place)
    live_main = tracer.main.body.reachable(fetched_nodes(meta))
    for instance in tracer.instances:
        for name, node in instance.body.nodes.items():
            live = instance.body.is_function or name in live_main
            if node.op in FORMS and live:
                finder.add(instance, name, _recorded_x_shape(instance, name))
    for layout in layouts.values():
        fresh = {id(kernel) for kernel in finder.kernels if not kernel.geometries}
        mine = [place for place in layout.places if _kernel_id(finder, place) in fresh]
        count_occurrences(finder, mine, layout.assumed)
    fetched = [t.name for s in meta.signature_def.values() for t in s.outputs.values()]
    reject_other_uses(finder, tracer, live_main, fetched, table)
    selected = next(iter(layouts.values()), Layout(()))
    return finder.kernels, _kept_operations(finder, selected, table)


def fetched_nodes(meta: meta_graph_pb2.MetaGraphDef) -> list[str]:
    """Returns the main-graph nodes that a user of the MetaGraph can ask for."""
    nodes = [meta.saver_def.save_tensor_name, meta.saver_def.restore_op_name]
    for signature in meta.signature_def.values():
        for tensor in signature.outputs.values():
            nodes += [tensor.name, tensor.coo_sparse.values_tensor_name]
            nodes += [tensor.coo_sparse.indices_tensor_name]
            nodes += [tensor.coo_sparse.dense_shape_tensor_name]
            nodes += [part.name for part in tensor.composite_tensor.components]
    for name, collection in meta.collection_def.items():
        if name in ("saved_model_main_op", "legacy_init_op", "table_initializer", "train_op"):
            nodes += collection.node_list.value
    for node in meta.object_graph_def.nodes:
        if node.WhichOneof("kind") == "constant":
            nodes.append(node.constant.operation)
    return [producer_of(name) for name in nodes if name]


def _look_at(finder: SiteFinder, place: Occurrence) -> None:
    node = place.instance.body.nodes[place.node]
    shape = place.inputs[0] if place.inputs else None
    if shape is None and node.op in FORMS:
        shape = _recorded_x_shape(place.instance, place.node)
    finder.add(place.instance, place.node, shape)


def _recorded_x_shape(instance: Instance, name: str) -> Shape:
    """Returns the shape that the graph records for the first input of a node."""
    body = instance.body
    reference = body.data_inputs(body.nodes[name])[0]
    producer, index = body.position(reference)
    if producer in body.nodes:
        recorded = attribute(body.nodes[producer], "_output_shapes").list.shape
    elif producer in body.arguments:
        position = body.arguments.index(producer)
        recorded = ()
        if position in body.proto.arg_attr:
            recorded = attribute(body.proto.arg_attr[position], "_output_shapes").list.shape
        index = 0
    else:
        return None
    if index >= len(recorded) or recorded[index].unknown_rank:
        return None
    return tuple(None if d.size < 0 else d.size for d in recorded[index].dim)


def _kept_operations(
    finder: SiteFinder, layout: Layout, table: VariableTable
) -> tuple[KeptOperation, ...]:
    found: dict[tuple, KeptOperation] = {}
    for place in layout.places:
        refused = finder.refused.get((id(place.instance), place.node))
        if refused is None or not _multiplies(place):
            continue
        operation = kept_operation(finder, place, refused[2], table)
        key = (operation.name, operation.kind, operation.reason)
        if key in found:
            cost = found[key].cost + operation.cost
            operation = KeptOperation(*key, cost)
        found[key] = operation
    return tuple(found.values())


def _multiplies(place: Occurrence) -> bool:
    """Says whether a place is linear in activations; look-ups count in tables of variables."""
    if place.instance.body.nodes[place.node].op != "GatherV2":
        return True
    table = place.instance.static_inputs.get(place.node, {}).get(0)
    rank = len(place.inputs[0] or ())
    return table is not None and rank == 2


def _kernel_id(finder: SiteFinder, place: Occurrence) -> int | None:
    found = finder.matched(place.instance, place.node)
    return id(found[0]) if found else None
