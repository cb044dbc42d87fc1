"""Rewrites the two object graphs: the one Python loads and the one in the checkpoint.

Both are lists of nodes that point at each other by position. A variable that gives way
to factors is spliced: where an object had it as an attribute `kernel`, it has
`kernel_factor_0`, `kernel_factor_1`; where a list held it, the list holds the factors.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tensorflow.core.protobuf import saved_object_graph_pb2, trackable_object_graph_pb2

SavedGraph: TypeAlias = saved_object_graph_pb2.SavedObjectGraph
StoredGraph: TypeAlias = trackable_object_graph_pb2.TrackableObjectGraph
_SEQUENCES = ("trackable_list_wrapper", "trackable_tuple_wrapper")


def sequence_nodes(graph: SavedGraph) -> set[int]:
    """Returns the nodes that are lists or tuples, whose children are numbered."""
    return {
        index
        for index, node in enumerate(graph.nodes)
        if node.WhichOneof("kind") == "user_object" and node.user_object.identifier in _SEQUENCES
    }


def splice(nodes: Sequence[Any], stand_ins: Mapping[int, list[int]], sequences: set[int]) -> None:
    """Points every edge to a node in `stand_ins` at the nodes that stand in for it.

    Args:
      nodes: of either graph.
      stand_ins: node -> nodes that take its place, possibly none.
      sequences: nodes whose children are numbered.
    """
    for index, node in enumerate(nodes):
        if not any(child.node_id in stand_ins for child in node.children):
            continue
        edges: list[tuple[str, int]] = []
        taken = {child.local_name for child in node.children}
        for child in node.children:
            targets = stand_ins.get(child.node_id, [child.node_id])
            numbered = index in sequences and child.local_name.isdigit()
            for position, target in enumerate(targets):
                name = child.local_name
                if len(targets) > 1 and not numbered:
                    name = f"{name}_factor_{position}"
                    while name in taken:
                        name += "_"
                    taken.add(name)
                edges.append((name, target))
        if index in sequences:
            edges = _renumbered(edges)
        del node.children[:]
        for name, target in edges:
            node.children.add(local_name=name, node_id=target)


def _renumbered(edges: list[tuple[str, int]]) -> list[tuple[str, int]]:
    numbered = [edge for edge in edges if edge[0].isdigit()]
    others = [edge for edge in edges if not edge[0].isdigit()]
    # The children of a list are stored in the order of their names as strings.
    numbered.sort(key=lambda edge: int(edge[0]))
    return [(str(i), target) for i, (_, target) in enumerate(numbered)] + others


def remove_nodes(graph: SavedGraph | StoredGraph, gone: set[int]) -> dict[int, int]:
    """Takes nodes out of a graph and returns old -> new position of those that stay.

    Edges to them must be gone already; slot variables (optimizers' moments) of removed
    variables go with them.
    """
    kept = [index for index in range(len(graph.nodes)) if index not in gone]
    places = {old: new for new, old in enumerate(kept)}
    nodes = [graph.nodes[index] for index in kept]
    for node in nodes:
        for child in node.children:
            child.node_id = places[child.node_id]
        slots = [s for s in node.slot_variables if s.original_variable_node_id not in gone]
        for slot in slots:
            slot.original_variable_node_id = places[slot.original_variable_node_id]
            slot.slot_variable_node_id = places[slot.slot_variable_node_id]
        if len(slots) != len(node.slot_variables):
            copies = [type(slot).FromString(slot.SerializeToString()) for slot in slots]
            del node.slot_variables[:]
            node.slot_variables.extend(copies)
        _move_saved_fields(node, places)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.nodes[:]
    graph.nodes.extend(copies)
    return places


def _move_saved_fields(node: Any, places: Mapping[int, int]) -> None:
    if not isinstance(node, saved_object_graph_pb2.SavedObject):
        return
    wanted = [(d.local_name, places[d.node_id]) for d in node.dependencies if d.node_id in places]
    del node.dependencies[:]
    for name, target in wanted:
        node.dependencies.add(local_name=name, node_id=target)
    for saveable in node.saveable_objects.values():
        saveable.save_function = places.get(saveable.save_function, saveable.save_function)
        saveable.restore_function = places.get(saveable.restore_function, saveable.restore_function)


def slot_variables_of(graph: SavedGraph | StoredGraph, variables: set[int]) -> set[int]:
    """Returns the nodes of slot variables that belong to `variables`."""
    return {
        slot.slot_variable_node_id
        for node in graph.nodes
        for slot in node.slot_variables
        if slot.original_variable_node_id in variables
    }


def rename_functions(graph: SavedGraph, names: Mapping[str, str]) -> None:
    """Renames concrete functions wherever the object graph mentions them."""
    for node in graph.nodes:
        if node.WhichOneof("kind") == "function":
            wanted = [names.get(name, name) for name in node.function.concrete_functions]
            del node.function.concrete_functions[:]
            node.function.concrete_functions.extend(wanted)
        elif node.WhichOneof("kind") == "bare_concrete_function":
            bare = node.bare_concrete_function
            bare.concrete_function_name = names.get(
                bare.concrete_function_name, bare.concrete_function_name
            )
    for old, new in names.items():
        if old != new:
            graph.concrete_functions[new].CopyFrom(graph.concrete_functions[old])
            del graph.concrete_functions[old]
