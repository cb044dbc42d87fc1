"""Rewrites the saver: some tensors of the checkpoint go, others come."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2, types_pb2

from tfapprox.rewriters.saved_model.body import Body, FreshNames, producer_of
from tfapprox.rewriters.saved_model.emitter import Emitter, Factor
from tfapprox.rewriters.saved_model.generation import emit_kernel
from tfapprox.rewriters.saved_model.provenance_ops import EVALUATORS
from tfapprox.rewriters.saved_model.saver import PASSING, SaverSide, tensor_lists


@dataclasses.dataclass(frozen=True)
class NewTensor:
    """A variable to save and restore: checkpoint name, main-graph node, dtype and shape."""

    name: str
    handle: str
    dtype: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class NewFold:
    """A variable that restoring computes: a kernel from its codes and a slice generator.

    Attributes:
      handle: main-graph node.
      codes, generator: checkpoint names, of tensors that are new too.
      kernel_shape: [height, width, in, out].
      dtype, shape: of the variable.
    """

    handle: str
    codes: str
    generator: str
    kernel_shape: tuple[int, ...]
    dtype: int
    shape: tuple[int, ...]


class SaverRewriter:
    """Makes one side of the saver forget some tensors and learn others.

    Attributes:
      nodes: the side's nodes after the rewrite (of the function, or the main graph's
        that changed or are new).
      gone: names of nodes that are no longer needed.
    """

    def __init__(
        self,
        side: SaverSide,
        removed: frozenset[str],
        added: Sequence[NewTensor],
        folds: Sequence[NewFold] = (),
    ):
        """Args:
        removed: keys (see `RestoredTensor.key`) to forget.
        added: tensors to learn.
        folds: variables to compute, when restoring.
        """
        self._side, self._removed, self._added, self._folds = side, removed, added, folds
        self._new: list[NewTensor | NewFold] = [*added, *folds]
        self._body = side.body
        self.nodes = {name: side.body.nodes[name] for name in side.body.order if name in side.nodes}
        self.gone: set[str] = set()
        self._names = FreshNames(side.body.nodes)
        handles = [new.handle for new in self._new]
        self._handles = {handle: self._handle(i, handle) for i, handle in enumerate(handles)}
        self._assignments: list[str] = []

    def _handle(self, index: int, handle: str) -> str:
        """Returns the reference of an added variable's handle inside the body."""
        if self._side.call is None:
            return handle
        name = f"tfapprox_handle_{index}"
        while name in self._body.arguments:
            name += "_"
        return name

    def restore(self) -> None:
        """Rewrites the restoring side."""
        prefix = ""
        for node in [n for n in self.nodes.values() if n.op == "RestoreV2"]:
            prefix = node.input[0]
            self._forget_outputs(node)
        if self._added:
            self._learn_to_restore(prefix or self._body.arguments[0])
        self._finish()

    def save(self) -> None:
        """Rewrites the saving side."""
        for node in [n for n in self.nodes.values() if n.op == "SaveV2"]:
            self._forget_inputs(node)
        learner = next((n for n in self.nodes.values() if n.op == "SaveV2"), None)
        if learner is not None and self._added:
            self._learn_to_save(learner)
        self._finish()

    def _forget_outputs(self, node: node_def_pb2.NodeDef) -> None:
        names, slices = tensor_lists(self._body, node)
        kept = [i for i, key in enumerate(map(_key, names, slices)) if key not in self._removed]
        if len(kept) == len(names):
            return
        lost = set(range(len(names))) - set(kept)
        for index in lost:
            self._drop_readers(self._body.reference(node.name, node.op, index))
        if not kept:
            self.gone.add(node.name)
            return
        changed = self._with_lists(node, [names[i] for i in kept], [slices[i] for i in kept])
        _keep(changed.attr["dtypes"].list.type, kept)
        moved = {
            self._body.reference(node.name, node.op, old): self._body.reference(
                node.name, node.op, new
            )
            for new, old in enumerate(kept)
        }
        for name, reader in list(self.nodes.items()):
            references = [moved.get(self._body.canonical(x), x) for x in reader.input]
            if references != list(reader.input) and name not in self.gone:
                copy = self._copy(name)
                copy.ClearField("input")
                copy.input.extend(references)

    def _forget_inputs(self, node: node_def_pb2.NodeDef) -> None:
        names, slices = tensor_lists(self._body, node)
        kept = [i for i, key in enumerate(map(_key, names, slices)) if key not in self._removed]
        if len(kept) == len(names):
            return
        data = self._body.data_inputs(node)
        controls = [x for x in node.input if x.startswith("^")]
        lost = [data[3 + i] for i in range(len(names)) if i not in kept]
        changed = self._with_lists(node, [names[i] for i in kept], [slices[i] for i in kept])
        inputs = [*changed.input[:3], *(data[3 + i] for i in kept), *controls]
        changed.ClearField("input")
        changed.input.extend(inputs)
        _keep(changed.attr["dtypes"].list.type, kept)
        for reference in lost:
            self._drop_chain(reference)

    def _drop_readers(self, reference: str) -> None:
        """Drops everything between a restored tensor and its assignment."""
        stack = [reference]
        while stack:
            for name, _ in self._body.consumers.get(stack.pop(), ()):
                node = self._body.nodes[name]
                self.gone.add(name)
                if node.op in PASSING or node.op in EVALUATORS:
                    stack.append(self._body.reference(name, node.op))

    def _drop_chain(self, reference: str) -> None:
        """Drops the nodes that read a variable for saving, back to its handle."""
        name = producer_of(reference)
        while name in self.nodes and self.nodes[name].op in (*PASSING, "ReadVariableOp"):
            self.gone.add(name)
            source = self._body.data_inputs(self._body.nodes[name])[0]
            if self.nodes[name].op == "ReadVariableOp":
                for reader, _ in self._body.consumers.get(source, ()):
                    if self._body.nodes[reader].op == "DisableCopyOnRead":
                        self.gone.add(reader)
            name = producer_of(source)

    def _with_lists(
        self, node: node_def_pb2.NodeDef, names: Sequence[str], slices: Sequence[str]
    ) -> node_def_pb2.NodeDef:
        changed = self._copy(node.name)
        changed.attr.pop("_output_shapes", None)
        for position, strings in ((1, names), (2, slices)):
            # In place where possible: OpenVINO knows a RestoreV2's inputs by their names.
            reference = self._body.canonical(node.input[position])
            name = producer_of(reference)
            if len(self._body.consumers.get(reference, ())) > 1:
                name = self._fresh(f"{node.name}/list_{position}")
            self.nodes[name] = _string_constant(name, strings)
            changed.input[position] = self._body.reference(name, "Const")
        return changed

    def _learn_to_restore(self, prefix: str) -> None:
        name = self._fresh("tfapprox_restore")
        lists = []
        for label, strings in (
            ("tensor_names", [t.name for t in self._added]),
            ("shape_and_slices", [""] * len(self._added)),
        ):
            constant = self._fresh(f"{name}/{label}")
            self.nodes[constant] = _string_constant(constant, strings)
            lists.append(self._body.reference(constant, "Const"))
        node = node_def_pb2.NodeDef(name=name, op="RestoreV2", input=[prefix, *lists])
        node.attr["dtypes"].list.type.extend(t.dtype for t in self._added)
        self.nodes[name] = node
        values = {}
        for index, tensor in enumerate(self._added):
            value = self._body.reference(name, "RestoreV2", index)
            self._assign(f"{name}_assign_{index}", tensor.handle, value, tensor.dtype)
            values[tensor.name] = Factor(value, tensor.dtype, tensor.shape)
        for index, fold in enumerate(self._folds):
            place = node_def_pb2.NodeDef(name=self._fresh(f"tfapprox_fold_{index}"))
            emitter = Emitter(self._body, place, set(self.nodes))
            codes, generator = values[fold.codes], values[fold.generator]
            kernel = emit_kernel(emitter, codes, generator, fold.kernel_shape, fold.shape)
            self.nodes.update({node.name: node for node in emitter.nodes})
            self._assign(f"{place.name}/assign", fold.handle, kernel, fold.dtype)

    def _assign(self, name: str, handle: str, value: str, dtype: int) -> None:
        assign = self._fresh(name)
        self.nodes[assign] = node_def_pb2.NodeDef(
            name=assign, op="AssignVariableOp", input=[self._handles[handle], value]
        )
        self.nodes[assign].attr["dtype"].type = dtype
        self._assignments.append(assign)

    def _learn_to_save(self, node: node_def_pb2.NodeDef) -> None:
        current = Body(function_pb2.FunctionDef(node_def=self.nodes.values()))
        names, slices = tensor_lists(current if self._body.is_function else self._main(), node)
        controls = [x for x in node.input if x.startswith("^")]
        data = [x for x in node.input if not x.startswith("^")]
        changed = self._with_lists(
            node, [*names, *(t.name for t in self._added)], [*slices, *("" for _ in self._added)]
        )
        data[1:3] = changed.input[1:3]
        for tensor in self._added:
            name = self._fresh("tfapprox_read")
            read = node_def_pb2.NodeDef(
                name=name, op="ReadVariableOp", input=[self._handles[tensor.handle]]
            )
            read.attr["dtype"].type = tensor.dtype
            self.nodes[name] = read
            data.append(self._body.reference(name, "ReadVariableOp"))
        changed.ClearField("input")
        changed.input.extend([*data, *controls])
        changed.attr["dtypes"].list.type.extend(t.dtype for t in self._added)

    def _main(self) -> Body:
        return Body(graph_pb2.GraphDef(node=self.nodes.values()))

    def _finish(self) -> None:
        for name in self.gone | self._orphans():
            self.nodes.pop(name, None)
        for name, node in list(self.nodes.items()):
            if any(x.startswith("^") and x[1:] in self.gone for x in node.input):
                copy = self._copy(name)
                inputs = [x for x in node.input if not (x.startswith("^") and x[1:] in self.gone)]
                copy.ClearField("input")
                copy.input.extend(inputs)

    def _orphans(self) -> set[str]:
        """Returns constants (shapes and the like) that only nodes which are gone read."""
        inputs = {producer_of(x) for name in self.gone for x in self._body.nodes[name].input}
        read = {
            producer_of(x)
            for name, node in self.nodes.items()
            if name not in self.gone
            for x in node.input
        }
        constants = {n for n in inputs & self.nodes.keys() if self.nodes[n].op == "Const"}
        return constants - read

    def require_assignments(self, name: str) -> None:
        """Makes the node wait for all new assignments."""
        copy = self._copy(name)
        copy.input.extend(f"^{assign}" for assign in self._assignments)

    def function(self) -> tuple[function_pb2.FunctionDef, list[str]]:
        """Returns the new function and the data inputs its call must have."""
        assert self._side.call is not None
        old = self._body.proto
        used = {producer_of(x) for node in self.nodes.values() for x in node.input}
        kept = [i for i, name in enumerate(self._body.arguments) if name in used or i == 0]
        for reference in self._body.returns.values():
            if producer_of(reference) in self.nodes:
                self.require_assignments(producer_of(reference))
        made = function_pb2.FunctionDef()
        made.signature.CopyFrom(old.signature)
        made.signature.ClearField("input_arg")
        made.signature.input_arg.extend(old.signature.input_arg[i] for i in kept)
        for key, value in old.attr.items():
            if key != "_input_shapes":
                made.attr[key].CopyFrom(value)
        for new, i in enumerate(kept):
            if i in old.arg_attr:
                made.arg_attr[new].CopyFrom(old.arg_attr[i])
        for variable in self._new:
            argument = made.signature.input_arg.add(
                name=self._handles[variable.handle], type=types_pb2.DT_RESOURCE
            )
            shape = tf.TensorShape(variable.shape).as_proto()
            argument.handle_data.add(dtype=variable.dtype, shape=shape)
        made.node_def.extend(self.nodes.values())
        made.ret.update(old.ret)
        controls = {k: v for k, v in old.control_ret.items() if v in self.nodes}
        controls.update({name: name for name in self._assignments})
        made.control_ret.update(controls)
        made.signature.ClearField("control_output")
        made.signature.control_output.extend(controls)
        inputs = [x for x in self._side.call.input if not x.startswith("^")]
        return made, [
            *(inputs[i] for i in kept),
            *(new.handle for new in self._new),
        ]

    def _copy(self, name: str) -> node_def_pb2.NodeDef:
        """Returns the node as one that may be changed."""
        if self.nodes[name] is self._body.nodes.get(name):
            copy = node_def_pb2.NodeDef()
            copy.CopyFrom(self.nodes[name])
            self.nodes[name] = copy
        return self.nodes[name]

    def _fresh(self, name: str) -> str:
        return self._names.get(name)


def _key(tensor: str, piece: str) -> str:
    return f"{tensor}|{piece}" if piece else tensor


def _keep(values: Any, kept: Sequence[int]) -> None:
    wanted = [values[i] for i in kept]
    del values[:]
    values.extend(wanted)


def _string_constant(name: str, strings: Sequence[str]) -> node_def_pb2.NodeDef:
    node = node_def_pb2.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = types_pb2.DT_STRING
    node.attr["value"].tensor.CopyFrom(
        tf.make_tensor_proto(list(strings), tf.string, [len(strings)])
    )
    return node
