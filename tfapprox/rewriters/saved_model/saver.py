"""The part of a SavedModel's graph that saves and restores its variables.

TF2 writes two functions (`__inference__traced_save`, `__inference__traced_restore`),
TF1 nodes of the main graph (save/SaveV2, save/RestoreV2). Both read alike through `Body`.
"""

import dataclasses

from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.body import CALLS, Body, attribute, producer_of
from tfapprox.rewriters.saved_model.files import strings_of

ASSIGNMENTS = ("AssignVariableOp", "Assign")
PASSING = ("Identity", "Cast", "Reshape")


@dataclasses.dataclass(frozen=True)
class RestoredTensor:
    """One tensor of the checkpoint and the variable it is restored into.

    Attributes:
      tensor: its name in the checkpoint.
      slice: the part of it ("" for all), as RestoreV2 writes it.
      handle: name of the variable's node in the main graph.
      restore, index: RestoreV2 node and its output.
      assignment: node that assigns it.
    """

    tensor: str
    slice: str
    handle: str
    restore: str
    index: int
    assignment: str

    @property
    def key(self) -> str:
        """The variable's identity: tensor name, and the slice if it holds a part."""
        return f"{self.tensor}|{self.slice}" if self.slice else self.tensor


@dataclasses.dataclass(frozen=True)
class SaverSide:
    """Where saving or restoring happens.

    Attributes:
      call: node of the main graph that calls the function, None in TF1.
      body: the function, or the main graph in TF1.
      nodes: names of the body's nodes that take part.
    """

    call: node_def_pb2.NodeDef | None
    body: Body
    nodes: frozenset[str]

    def main_graph_node(self, reference: str) -> str | None:
        """Returns the main-graph node behind an argument or node of the body."""
        name = producer_of(reference)
        if self.call is None:
            return name
        if name not in self.body.arguments:
            return None
        return producer_of(self.call.input[self.body.arguments.index(name)])


def find_side(
    meta: meta_graph_pb2.MetaGraphDef, main: Body, functions: dict[str, Body], node_name: str
) -> SaverSide | None:
    """Returns the part of the graph behind a node that saver_def names."""
    node = main.nodes.get(producer_of(node_name)) if node_name else None
    if node is None:
        return None
    if node.op in CALLS:
        body = functions.get(attribute(node, "f").func.name)
        if body is None:
            raise UserError(f"saved_model.pb is damaged: node {node.name} calls a missing function")
        return SaverSide(node, body, frozenset(body.nodes))
    return SaverSide(None, main, frozenset(main.reachable([node.name])))


def restored_tensors(side: SaverSide | None) -> list[RestoredTensor]:
    """Returns what the restoring part reads and where it puts it."""
    if side is None:
        return []
    found = []
    for name in side.body.nodes:
        node = side.body.nodes[name]
        if name in side.nodes and node.op == "RestoreV2":
            found.extend(_outputs_of_restore(side, node))
    return found


def _outputs_of_restore(side: SaverSide, node: node_def_pb2.NodeDef) -> list[RestoredTensor]:
    names, slices = tensor_lists(side.body, node)
    found = []
    for index, (name, piece) in enumerate(zip(names, slices, strict=True)):
        reference = side.body.reference(node.name, node.op, index)
        for assignment in _assignments(side.body, reference):
            handle = side.main_graph_node(side.body.data_inputs(assignment)[0])
            if handle is not None:
                found.append(RestoredTensor(name, piece, handle, node.name, index, assignment.name))
    return found


def tensor_lists(body: Body, node: node_def_pb2.NodeDef) -> tuple[list[str], list[str]]:
    """Returns the tensor names and slices of a SaveV2 or RestoreV2 node.

    Raises:
      UserError: they are no constants.
    """
    lists = []
    for reference in body.data_inputs(node)[1:3]:
        source = body.nodes.get(producer_of(reference))
        if source is None or source.op != "Const":
            raise UserError(f"node {node.name} saves or restores under names that are no constants")
        lists.append(strings_of(attribute(source, "value").tensor))
    return lists[0], lists[1]


def _assignments(body: Body, reference: str) -> list[node_def_pb2.NodeDef]:
    found, stack = [], [reference]
    while stack:
        current = stack.pop()
        for consumer, index in body.consumers.get(current, ()):
            node = body.nodes[consumer]
            if node.op in ASSIGNMENTS and index == 1:
                found.append(node)
            elif node.op in PASSING and index == 0:
                stack.append(body.reference(node.name, node.op))
    return found
