"""Who is who: the object graph's variables, the main graph's handles, the stored tensors.

A SavedModel names one variable three times: as a node of the object graph (which
Python loads), as a VarHandleOp of the main graph (which TF Serving loads) and as a
tensor of the checkpoint. The identity used here, `key`, is the tensor's name.
"""

import dataclasses

import numpy as np
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import (
    meta_graph_pb2,
    saved_object_graph_pb2,
    trackable_object_graph_pb2,
)

from tfapprox.rewriters.saved_model.body import CALLS, Body, attribute, producer_of
from tfapprox.rewriters.saved_model.files import OBJECT_GRAPH_KEY, SavedModelFiles
from tfapprox.rewriters.saved_model.saver import RestoredTensor

VARIABLE_OPS = ("VarHandleOp", "VariableV2", "Variable")
REFERENCE_VARIABLES = ("VariableV2", "Variable")


@dataclasses.dataclass
class Variable:
    """One variable.

    Attributes:
      key: its identity; see the module.
      name: as the model calls it.
      dtype: DataType enum.
      shape: sizes of the axes.
      trainable: None where the model doesn't say (TF1).
      objects: nodes of the object graph that stand for it.
      handles: nodes of the main graph that stand for it; the restored one first.
      stored: False for one that restoring computes from others.
    """

    key: str
    name: str
    dtype: int
    shape: tuple[int, ...]
    trainable: bool | None = None
    objects: list[int] = dataclasses.field(default_factory=list)
    handles: list[str] = dataclasses.field(default_factory=list)
    stored: bool = True

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class VariableTable:
    """All variables of a MetaGraph.

    Attributes:
      variables: key -> Variable.
      of_object: object graph node -> key.
      of_handle: main graph node -> key.
      unrestored: main graph handles that the signatures read and nothing restores:
        TF Serving fails on them, though Python loads the model.
    """

    def __init__(
        self,
        files: SavedModelFiles,
        main: Body,
        restored: list[RestoredTensor],
    ):
        self.variables: dict[str, Variable] = {}
        self.of_object: dict[int, str] = {}
        self.of_handle: dict[str, str] = {}
        self.unrestored: list[str] = []
        self.checkpoint_objects = checkpoint_objects(files)
        self.checkpoint_nodes = match_objects(files.meta.object_graph_def, self.checkpoint_objects)
        self._add_objects(files.meta.object_graph_def)
        self._add_restored(main, restored)
        self._add_aliases(files.meta, main)

    def _add_objects(self, graph: saved_object_graph_pb2.SavedObjectGraph) -> None:
        for saved, stored in self.checkpoint_nodes.items():
            node = graph.nodes[saved]
            if node.WhichOneof("kind") != "variable":
                continue
            attributes = self.checkpoint_objects.nodes[stored].attributes
            keys = [a.checkpoint_key for a in attributes if a.name == "VARIABLE_VALUE"]
            if keys:
                shape = tuple(d.size for d in node.variable.shape.dim)
                variable = self.variables.setdefault(
                    keys[0],
                    Variable(
                        keys[0],
                        node.variable.name,
                        node.variable.dtype,
                        shape,
                        node.variable.trainable,
                    ),
                )
                variable.objects.append(saved)
                self.of_object[saved] = keys[0]

    def _add_restored(self, main: Body, restored: list[RestoredTensor]) -> None:
        for tensor in restored:
            node = main.nodes.get(tensor.handle)
            if node is None or node.op not in VARIABLE_OPS:
                continue
            self.of_handle[tensor.handle] = tensor.key
            if tensor.key not in self.variables:
                self.variables[tensor.key] = _variable_of_node(tensor.key, node)
            self.variables[tensor.key].handles.append(tensor.handle)

    def add_folded(self, main: Body, handle: str) -> str | None:
        """Adds a variable that restoring computes; returns its key, None if it is stored."""
        node = main.nodes.get(handle)
        if node is None or node.op != "VarHandleOp" or handle in self.of_handle:
            return None
        variable = _variable_of_node(f"folded {handle}", node)
        variable.stored = False
        variable.handles.append(handle)
        self.variables[variable.key] = variable
        self.of_handle[handle] = variable.key
        return variable.key

    def _add_aliases(self, meta: meta_graph_pb2.MetaGraphDef, main: Body) -> None:
        """Finds handles that stand for a stored variable only by their place in a call."""
        functions = meta.object_graph_def.concrete_functions
        for node in main.nodes.values():
            if node.op not in CALLS or attribute(node, "f").func.name not in functions:
                continue
            bound = functions[attribute(node, "f").func.name].bound_inputs
            inputs = main.data_inputs(node)
            for reference, saved in zip(inputs[len(inputs) - len(bound) :], bound, strict=True):
                handle = producer_of(reference)
                if saved not in self.of_object or handle in self.of_handle:
                    continue
                key = self.of_object[saved]
                self.of_handle[handle] = key
                self.variables[key].handles.append(handle)
                self.unrestored.append(handle)

    def merge(self, copy: str, original: str) -> None:
        """Lets one variable stand for another that is equal to it."""
        variable = self.variables.pop(copy)
        self.variables[original].objects += variable.objects
        self.variables[original].handles += variable.handles
        self.of_object.update(dict.fromkeys(variable.objects, original))
        self.of_handle.update(dict.fromkeys(variable.handles, original))


def _variable_of_node(key: str, node: node_def_pb2.NodeDef) -> Variable:
    shape = tuple(d.size for d in attribute(node, "shape").shape.dim)
    return Variable(key, node.name, attribute(node, "dtype").type, shape)


def checkpoint_objects(files: SavedModelFiles) -> trackable_object_graph_pb2.TrackableObjectGraph:
    """Returns the checkpoint's object graph; empty where there is none."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    if OBJECT_GRAPH_KEY in files.tensor_shapes:
        graph.ParseFromString(files.tensor(OBJECT_GRAPH_KEY).item())
    return graph


def match_objects(
    saved: saved_object_graph_pb2.SavedObjectGraph,
    stored: trackable_object_graph_pb2.TrackableObjectGraph,
) -> dict[int, int]:
    """Returns saved node -> checkpoint node, found by walking both from the root."""
    if not saved.nodes or not stored.nodes:
        return {}
    matched, stack = {0: 0}, [0]
    while stack:
        node = stack.pop()
        theirs = {c.local_name: c.node_id for c in stored.nodes[matched[node]].children}
        for child in saved.nodes[node].children:
            other = theirs.get(child.local_name)
            if other is not None and child.node_id not in matched:
                matched[child.node_id] = other
                stack.append(child.node_id)
    return matched
