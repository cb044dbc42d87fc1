"""One view of the two kinds of graph in a SavedModel: the main GraphDef and its functions.

A *reference* is the string by which a node input names a tensor. In a GraphDef it is
"node" or "node:1", in a FunctionDef "argument" or "node:output_name:1"; control inputs
are "^node". `Body` hides the difference.
"""

import functools
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator

from tensorflow.core.framework import attr_value_pb2, function_pb2, graph_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry

_NO_ATTRIBUTE = attr_value_pb2.AttrValue()
CALLS = ("PartitionedCall", "StatefulPartitionedCall")


@functools.cache
def output_names(op: str) -> tuple[str, ...]:
    """Returns the names of the op's outputs, empty for an op unknown to this TensorFlow."""
    definition = op_def_registry.get(op)
    return tuple(arg.name for arg in definition.output_arg) if definition else ()


class Body:
    """Nodes of a graph or function with their consumers and an order of execution.

    Attributes:
      name: of the function, "" for the main graph.
      nodes: node name -> NodeDef, in the order of the proto; not to be changed.
      arguments: argument names, empty for the main graph.
      returns: output name -> reference, empty for the main graph.
    """

    def __init__(self, proto: graph_pb2.GraphDef | function_pb2.FunctionDef):
        self.proto = proto
        self.is_function = isinstance(proto, function_pb2.FunctionDef)
        if self.is_function:
            self.name = proto.signature.name
            self.nodes = {node.name: node for node in proto.node_def}
            self.arguments = [argument.name for argument in proto.signature.input_arg]
            self.returns = {arg.name: proto.ret[arg.name] for arg in proto.signature.output_arg}
        else:
            self.name = ""
            self.nodes = {node.name: node for node in proto.node}
            self.arguments, self.returns = [], {}

    def reference(self, node: str, op: str, index: int = 0, output: int = 0) -> str:
        """Returns the reference to an output of a node.

        Args:
          node, op: name and type of the node.
          index: position within the output argument (for list outputs).
          output: which output argument; list outputs are the only one of their op.
        """
        if self.is_function:
            return f"{node}:{output_names(op)[output]}:{index}"
        return _graph_reference(node, max(index, output))

    def data_inputs(self, node: node_def_pb2.NodeDef) -> list[str]:
        """Returns the references of the node's data inputs in canonical form."""
        return [self.canonical(x) for x in node.input if not x.startswith("^")]

    def canonical(self, reference: str) -> str:
        """Returns "node" for the GraphDef's "node:0", other references as they are."""
        if not self.is_function and reference.endswith(":0"):
            return reference[:-2]
        return reference

    def position(self, reference: str) -> tuple[str, int]:
        """Returns (producer, flat output index) of a reference; arguments have index 0.

        Ops with several output arguments in functions give the index within the
        argument; only ops with one output argument have static values, so it serves.
        """
        producer, *rest = reference.split(":")
        return producer, int(rest[-1]) if rest and rest[-1].isdigit() else 0

    def output_references(self, node: node_def_pb2.NodeDef, count: int) -> list[str]:
        """Returns the references of the first output argument's `count` entries."""
        return [self.reference(node.name, node.op, index) for index in range(count)]

    @functools.cached_property
    def consumers(self) -> dict[str, list[tuple[str, int]]]:
        """Reference -> (node, data input index) of everything that reads it."""
        found = defaultdict(list)
        for node in self.nodes.values():
            for index, reference in enumerate(self.data_inputs(node)):
                found[reference].append((node.name, index))
        return found

    @functools.cached_property
    def order(self) -> list[str]:
        """Node names, producers first; nodes in a TF1 loop's cycle come last."""
        waiting: dict[str, int] = {}
        successors = defaultdict(list)
        for node in self.nodes.values():
            producers = {p for p in map(producer_of, node.input) if p in self.nodes}
            waiting[node.name] = len(producers)
            for producer in producers:
                successors[producer].append(node.name)
        order = [name for name, count in waiting.items() if count == 0]
        for name in order:  # grows while it is walked
            for successor in successors[name]:
                waiting[successor] -= 1
                if waiting[successor] == 0:
                    order.append(successor)
        done = set(order)
        return order + [name for name in self.nodes if name not in done]

    @functools.cached_property
    def executed(self) -> set[str]:
        """Nodes of a function that run when it is called; TensorFlow prunes the others."""
        controls = self.proto.control_ret.values() if self.is_function else ()
        return self.reachable([*map(producer_of, self.returns.values()), *controls])

    def reachable(self, roots: Iterable[str]) -> set[str]:
        """Returns the nodes that computing `roots` (node names) needs, control inputs too."""
        seen: set[str] = set()
        stack = [name for name in roots if name in self.nodes]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            producers = map(producer_of, self.nodes[name].input)
            stack.extend(p for p in producers if p in self.nodes and p not in seen)
        return seen


class FreshNames:
    """Gives names that are not taken yet, in constant time each."""

    def __init__(self, taken: Container[str], separator: str = "_"):
        """Args: taken: names in use; looked at anew each time, so it may grow."""
        self._taken, self._separator = taken, separator
        self._given: set[str] = set()
        self._counts: dict[str, int] = {}

    def get(self, wanted: str) -> str:
        """Returns `wanted`, or that with the first free number after it."""
        candidate = wanted
        while candidate in self._taken or candidate in self._given:
            self._counts[wanted] = self._counts.get(wanted, 0) + 1
            candidate = f"{wanted}{self._separator}{self._counts[wanted]}"
        self._given.add(candidate)
        return candidate


def attribute(node: node_def_pb2.NodeDef, name: str) -> attr_value_pb2.AttrValue:
    """Returns an attribute or, if the node lacks it, an empty one.

    Reading `node.attr[name]` would add it to the node, and the SavedModel with it.
    """
    return node.attr[name] if name in node.attr else _NO_ATTRIBUTE


def producer_of(reference: str) -> str:
    """Returns the node or argument a reference (control ones too) names."""
    return reference.lstrip("^").split(":", 1)[0]


def function_attributes(node: node_def_pb2.NodeDef) -> Iterator[str]:
    """Yields the names of all functions that the node's attributes mention."""
    for value in node.attr.values():
        kind = value.WhichOneof("value")
        if kind == "func":
            yield value.func.name
        elif kind == "list":
            yield from (func.name for func in value.list.func)


def _graph_reference(node: str, index: int) -> str:
    return node if index == 0 else f"{node}:{index}"
