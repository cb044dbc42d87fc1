"""A signature of a SavedModel as one flat graph, in which every tensor can be reached.

Calls are taken apart; loops and branches stay whole. Variables are made anew from the
checkpoint, so nothing of the model itself is loaded or changed.
"""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry

from tfapprox.errors import UserError
from tfapprox.rewriters.flat_graph import FlatGraph
from tfapprox.rewriters.saved_model.body import CALLS, Body, attribute, producer_of
from tfapprox.rewriters.saved_model.shapes import argument_count
from tfapprox.rewriters.saved_model.source import SavedModelSource, open_saved_model

_UNREADY = ("TableV2", "Iterator", "IteratorV2", "VariableV2", "Enter", "Switch")
_MOST_NODES = 200_000


def flatten(path: str | os.PathLike[str], signature: str, tags: Sequence[str]) -> FlatGraph:
    """Returns a signature laid out flat.

    What is at the same place in the original and in a model that was made of it has the
    same name in both.

    Args:
      path: SavedModel directory; only read.
      signature: to lay out.
      tags: of the graph.

    Raises:
      UserError: the signature needs something that only the loaded model has.
    """
    source = open_saved_model(os.fspath(path), tags, signature)
    told = source.files.meta.signature_def[signature]
    tensors = (*told.inputs.values(), *told.outputs.values())
    if not all(tensor.name for tensor in tensors):
        raise UserError(f"{path}: signature {signature!r} has an input or output of many parts")
    wanted = [producer_of(tensor.name) for tensor in tensors]
    flat, resolve = _Flattener(source).lay_out(wanted)
    handles = _handles(flat, source, os.fspath(path))
    variables = {key: tf.Variable(source.files.tensor(key)) for key in set(handles.values())}

    def build() -> tuple[dict[str, Any], dict[str, Any]]:
        graph: Any = tf.compat.v1.get_default_graph()
        captured = {key: graph.capture(variable.handle) for key, variable in variables.items()}
        mapped = {f"{name}:0": captured[key] for name, key in handles.items()}
        tf.graph_util.import_graph_def(flat, input_map=mapped, name="")
        groups = (
            {key: graph.get_tensor_by_name(resolve(tensor.name)) for key, tensor in group.items()}
            for group in (told.inputs, told.outputs)
        )
        return next(groups), next(groups)

    return FlatGraph(build, variables)


def _handles(flat: graph_pb2.GraphDef, source: SavedModelSource, path: str) -> dict[str, str]:
    """Returns node of a variable's handle -> the variable's name in the checkpoint."""
    found = {}
    for node in flat.node:
        if node.op == "VarHandleOp":
            key = source.table.of_handle.get(node.name)
            if key is None or key not in source.files.tensor_shapes:
                raise UserError(
                    f"{path}: variable {node.name} is no whole tensor of the checkpoint, so blocks "
                    "can't be taken apart: leave out --refine_steps"
                )
            found[node.name] = key
    return found


class _Flattener:
    """Copies nodes out of the functions that a signature calls."""

    def __init__(self, source: SavedModelSource):
        self._source = source
        self._graph = graph_pb2.GraphDef()
        self._graph.versions.CopyFrom(source.files.meta.graph_def.versions)

    def lay_out(self, wanted: Sequence[str]) -> tuple[graph_pb2.GraphDef, Callable[[str], str]]:
        """Returns the flat graph, and where in it a tensor of the main graph is."""
        main = self._source.main
        known = self._copy(main, "", main.reachable(wanted), {})
        self._add_library()

        def resolve(reference: str) -> str:
            found = known[main.canonical(reference)]
            return found if ":" in found else f"{found}:0"

        return self._graph, resolve

    def _copy(
        self, body: Body, prefix: str, needed: set[str], arguments: Mapping[str, str]
    ) -> dict[str, str]:
        """Copies a body's nodes; returns its references -> references in the flat graph."""
        known = dict(arguments)
        for name in body.order:
            if name not in needed:
                continue
            node = body.nodes[name]
            if node.op.endswith(_UNREADY):
                raise UserError(
                    f"{self._source.files.path} has {node.op} {node.name}, which works in the "
                    "loaded model alone, so its blocks can't be taken apart: leave out "
                    "--refine_steps"
                )
            inputs = [known[reference] for reference in body.data_inputs(node)]
            callee = self._source.functions.get(attribute(node, "f").func.name)
            if node.op in CALLS and callee is not None:
                inner = dict(zip(callee.arguments, inputs, strict=True))
                found = self._copy(callee, f"{prefix}{name}/", callee.executed, inner)
                results = [found[reference] for reference in callee.returns.values()]
                references = body.output_references(node, len(results))
                known.update(zip(references, results, strict=True))
            else:
                self._add(node, prefix + name, inputs)
                known.update(_references(body, node, prefix + name))
        return known

    def _add(self, node: node_def_pb2.NodeDef, name: str, inputs: Sequence[str]) -> None:
        if len(self._graph.node) > _MOST_NODES:
            raise UserError("the signature unfolds into too many operations to be laid out flat")
        made = self._graph.node.add()
        made.CopyFrom(node)
        made.name = name
        # Without control inputs: what runs only for its effects has no place here.
        made.ClearField("input")
        made.input.extend(inputs)
        for key in [key for key in made.attr if key.startswith("_")]:
            del made.attr[key]

    def _add_library(self) -> None:
        """Adds the functions of loops and branches, under names that TensorFlow has not met."""
        functions, suffix = self._source.functions, f"_flat_{uuid.uuid4().int % 10**12}"
        holders: list[Any] = list(self._graph.node)
        added: set[str] = set()
        for node in holders:  # grows while it is walked
            for value in node.attr.values():
                mentioned = value.list.func if value.WhichOneof("value") == "list" else [value.func]
                for function in mentioned:
                    name = function.name
                    if name not in functions:
                        continue
                    function.name = name + suffix
                    if name not in added:
                        added.add(name)
                        made = self._graph.library.function.add()
                        made.CopyFrom(functions[name].proto)
                        made.signature.name = name + suffix
                        holders.extend(made.node_def)


def _references(body: Body, node: node_def_pb2.NodeDef, name: str) -> dict[str, str]:
    """Returns the body's references to a node's outputs -> those in the flat graph."""
    definition = op_def_registry.get(node.op)
    if definition is None:
        raise UserError(f"operation {node.op} is unknown to this TensorFlow")
    found: dict[str, str] = {}
    for argument in definition.output_arg:
        for index in range(argument_count(argument, node)):
            place = len(found)
            own = (
                f"{node.name}:{argument.name}:{index}"
                if body.is_function
                else (body.canonical(f"{node.name}:{place}"))
            )
            found[own] = name if place == 0 else f"{name}:{place}"
    return found
