"""Takes out of a rewritten graph what only replaced kernels needed."""

from collections.abc import Iterable, Mapping

from tensorflow.core.framework import function_pb2, node_def_pb2

from tfapprox.rewriters.saved_model.body import Body, attribute, function_attributes, producer_of
from tfapprox.rewriters.saved_model.variables import VariableTable

Nodes = dict[str, node_def_pb2.NodeDef]
Functions = Mapping[str, function_pb2.FunctionDef]


def unify_handles(nodes: Nodes, table: VariableTable, live: Iterable[str]) -> set[str]:
    """Lets live nodes read each variable through the one handle that is restored.

    Args:
      nodes: of the main graph, changed in place.
      live: names of the nodes that can be asked for.

    Returns:
      Names of the other handles.
    """
    primary = {}
    for variable in table.variables.values():
        for handle in variable.handles[1:]:
            primary[handle] = variable.handles[0]
    for name in live if primary else ():
        node = nodes.get(name)
        if node is None or not any(producer_of(x) in primary for x in node.input):
            continue
        changed = node_def_pb2.NodeDef()
        changed.CopyFrom(node)
        changed.ClearField("input")
        changed.input.extend(primary.get(x, x) for x in node.input)
        nodes[name] = changed
    return set(primary)


def drop_dead(nodes: Nodes, handles: Iterable[str], live: set[str]) -> None:
    """Drops handles of what is gone, and leftovers (initialisers) that hang on them.

    Args:
      nodes: of the main graph, changed in place.
      handles: names of the nodes to drop.
      live: names of the nodes that can be asked for.
    """
    dropped = set(handles)
    gone = dropped & nodes.keys()
    readers: dict[str, list[str]] = {}
    for node in nodes.values():
        for name in _data_producers(node):
            readers.setdefault(name, []).append(node.name)
    stack = list(gone)
    while stack:
        for name in readers.get(stack.pop(), ()):
            if name not in gone:
                gone.add(name)
                stack.append(name)
    needed = gone & (live - dropped)
    if needed:
        raise RuntimeError(f"the rewritten graph still needs {sorted(needed)[:5]}")
    gone |= _only_read_by(nodes, gone, live)
    for name in gone:
        del nodes[name]
    for name, node in nodes.items():
        nodes[name] = _without_ties(node, gone)


def _only_read_by(nodes: Nodes, gone: set[str], live: set[str]) -> set[str]:
    """Returns nodes that nobody can ask for and whose readers all go (initial values)."""
    readers: dict[str, int] = {}
    for node in nodes.values():
        for name in _data_producers(node):
            readers[name] = readers.get(name, 0) + 1
    idle: set[str] = set()
    stack = list(gone)
    while stack:
        for name in _data_producers(nodes[stack.pop()]):
            readers[name] -= 1
            free = name in nodes and name not in live and name not in gone
            if readers[name] == 0 and free:
                idle.add(name)
                stack.append(name)
    return idle


def _data_producers(node: node_def_pb2.NodeDef) -> list[str]:
    return [producer_of(reference) for reference in node.input if not reference.startswith("^")]


def _without_ties(node: node_def_pb2.NodeDef, gone: set[str]) -> node_def_pb2.NodeDef:
    """Returns the node without control edges to, and placement beside, nodes that are gone."""
    places = attribute(node, "_class").list.s
    beside = any(place.decode().removeprefix("loc:@") in gone for place in places)
    waits = any(x.startswith("^") and x[1:] in gone for x in node.input)
    if not beside and not waits:
        return node
    changed = node_def_pb2.NodeDef.FromString(node.SerializeToString())
    if beside:
        changed.attr.pop("_class")
    if waits:
        kept = [x for x in node.input if not (x.startswith("^") and x[1:] in gone)]
        changed.ClearField("input")
        changed.input.extend(kept)
    return changed


def needed_functions(
    functions: Functions,
    old_functions: Mapping[str, Body],
    old_main: Body,
    roots: Iterable[str],
    nodes: Iterable[node_def_pb2.NodeDef],
) -> list[function_pb2.FunctionDef]:
    """Returns the functions in use, and those that nobody used before either.

    Args:
      functions: the rewritten library, with the old versions still in it.
      old_functions, old_main: as they were.
      roots: names of functions that are needed from outside the graph.
      nodes: of the new main graph.
    """
    called = {
        name
        for body in (*old_functions.values(), old_main)
        for node in body.nodes.values()
        for name in _mentioned(node, functions)
    }
    outside = set(roots)
    stack = [name for name in old_functions if name not in called and name not in outside]
    stack += [name for name in outside if name in functions]
    for node in nodes:
        stack += _mentioned(node, functions)
    seen: set[str] = set()
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in functions[name].node_def:
            stack += _mentioned(node, functions)
    return [proto for name, proto in functions.items() if name in seen]


def _mentioned(node: node_def_pb2.NodeDef, functions: Functions) -> list[str]:
    names = [name for name in function_attributes(node) if name in functions]
    return names + ([node.op] if node.op in functions else [])
