"""Rewrites one graph or function: emits stages, redirects calls, drops what is left over."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2

from tfapprox.rewriters.saved_model.body import producer_of
from tfapprox.rewriters.saved_model.composing import emit_composition, layout_in
from tfapprox.rewriters.saved_model.emitter import Emitter, Factor
from tfapprox.rewriters.saved_model.provenance import Static
from tfapprox.rewriters.saved_model.provenance_ops import TRANSPARENT
from tfapprox.rewriters.saved_model.pruning import CHAIN_OPS, without_idle
from tfapprox.rewriters.saved_model.replacements import FactorTensor, Replacement, Version
from tfapprox.rewriters.saved_model.sites import SiteUse
from tfapprox.rewriters.saved_model.stages import emit_chain
from tfapprox.rewriters.saved_model.tracing import BRANCHES, LOOPS, Call, Instance

# Attributes that tie a function to others of the same signature, which it no longer has.
_STALE_ATTRIBUTES = (
    "api_implements",
    "api_preferred_device",
    "forward_function_name",
    "backward_function_name",
)


class Owner(Protocol):
    """What a `BodyRewriter` asks of the `Specialiser`; see there."""

    factors: Sequence[FactorTensor]
    removed: frozenset[str]

    def uses(self, instance: Instance) -> Mapping[str, tuple[Replacement, SiteUse]]: ...
    def composed(self, instance: Instance) -> list[Replacement]: ...
    def is_local(self, instance: Instance, node: str) -> bool: ...
    def changed(self, instance: Instance) -> bool: ...
    def needs(self, instance: Instance) -> tuple[int, ...]: ...
    def dropped(self, instance: Instance) -> tuple[int, ...]: ...
    def lost(self, instance: Instance) -> tuple[int, ...]: ...
    def version(
        self, instance: Instance, added: tuple[int, ...] | None = None, returns: bool = False
    ) -> Version: ...


class BodyRewriter:
    """Rewrites one body: emits stages, redirects calls, drops what nothing needs."""

    def __init__(
        self,
        owner: Owner,
        instance: Instance,
        added: tuple[int, ...],
        references: Mapping[int, str] | None = None,
    ):
        """Args:
        added: factors that come as arguments.
        references: in the main graph, factor -> node of its handle or constant.
        """
        self._owner, self._instance, self._body = owner, instance, instance.body
        self._taken = set(self._body.nodes) | set(self._body.arguments)
        self._added = added
        self._arguments = {i: self._argument_name(i) for i in added if references is None}
        self._references = references if references is not None else self._arguments
        self._replaced: dict[str, node_def_pb2.NodeDef] = {}
        self._extra: list[node_def_pb2.NodeDef] = []
        self._aliases: dict[str, str] = {}
        self._idle: list[str] = []
        self._factors: dict[int, Factor] = {}
        self._returned: dict[str, str] = dict(self._body.returns)

    def nodes(self) -> list[node_def_pb2.NodeDef]:
        """Returns the new nodes; what the rewrite made superfluous is left out."""
        for name, (replacement, use) in self._owner.uses(self._instance).items():
            self._emit(name, replacement, use)
        for name, call in self._instance.calls.items():
            self._redirect(name, call)
        for replacement in self._owner.composed(self._instance):
            self._compose(replacement)
        if self._body.is_function:
            # What is read and then never used would be left without its variable.
            values, removed = self._instance.values.items(), self._owner.removed
            self._idle += [producer_of(r) for r, v in values if v is not None and v.roots & removed]
        return self._remaining()

    def _remaining(self) -> list[node_def_pb2.NodeDef]:
        """Returns old, replaced and new nodes but for those that nothing reads any more."""
        current = {**self._body.nodes, **self._replaced}
        made = [self._aliased(node) for node in (*current.values(), *self._extra)]
        returned = [self._aliases.get(r, r) for r in self._returned.values()]
        return without_idle(made, self._idle, returned)

    def function(self, name: str, returns_added: bool) -> function_pb2.FunctionDef:
        """Returns the new function."""
        old = self._body.proto
        dropped = set(self._owner.dropped(self._instance))
        lost = set(self._owner.lost(self._instance))
        outputs = list(self._body.returns.items())
        self._idle += [producer_of(outputs[i][1]) for i in lost]
        self._returned = {k: v for i, (k, v) in enumerate(outputs) if i not in lost}
        nodes = self.nodes()
        made = function_pb2.FunctionDef()
        made.CopyFrom(_without_nodes(old))
        made.signature.name = name
        made.node_def.extend(nodes)
        self._write_arguments(made, dropped)
        self._write_returns(made, lost, returns_added)
        present = {node.name for node in nodes}
        _keep_controls(made, present)
        for attribute in _STALE_ATTRIBUTES:
            made.attr.pop(attribute, None)
        _check_closed(made)
        return made

    def _argument_name(self, index: int) -> str:
        count = 0
        while f"factor_{index}_{count}" in self._taken:
            count += 1
        self._taken.add(f"factor_{index}_{count}")
        return f"factor_{index}_{count}"

    def _emit(self, name: str, replacement: Replacement, use: SiteUse) -> None:
        node = self._body.nodes[name]
        operand = self._body.data_inputs(node)[use.match.operand]
        emitter = Emitter(self._body, node, self._taken, self._enter_behind(operand))
        if self._owner.is_local(self._instance, name):
            factors = [self._constant(emitter, node, i) for i in replacement.factors]
        else:
            factors = [self._factor(emitter, i) for i in replacement.factors]
        reference = emit_chain(
            emitter, self._body, node, use.match, replacement.factorization, factors, use.flipped
        )
        *extra, last = emitter.nodes
        last.input.extend(x for x in self._controls_behind(operand) if x not in last.input)
        self._extra += extra
        self._replaced[name] = last
        self._alias(self._body.reference(name, node.op), reference)
        self._idle.append(producer_of(operand))

    def _compose(self, replacement: Replacement) -> None:
        """Computes a whole variable from its factors in the place where it was read."""
        (root,) = replacement.kernel.roots
        read = {x for node in self._remaining() for x in node.input}
        read.update(self._aliases.get(r, r) for r in self._returned.values())
        for reference, value in self._instance.values.items():
            if not isinstance(value, Static) or value.op != "Variable" or root not in value.roots:
                continue
            if reference not in read:
                continue
            producer = producer_of(reference)
            node = self._body.nodes.get(producer)
            if node is not None and node.op in TRANSPARENT:
                continue  # it only hands on what another node read
            if node is None:
                node = node_def_pb2.NodeDef(name=self._node_name(f"{producer}_composed"))
            emitter = Emitter(self._body, node, self._taken)
            factors = [self._factor(emitter, i) for i in replacement.factors]
            array = value.value()
            layout = layout_in(replacement.kernel.first.kernel, array)
            composed = emit_composition(
                emitter, replacement.factorization, factors, layout, array.shape
            )
            *extra, last = emitter.nodes
            self._extra += extra
            if producer in self._body.nodes:
                self._replaced[producer] = last
            else:
                self._extra.append(last)
            self._alias(reference, composed)

    def _node_name(self, wanted: str) -> str:
        while wanted in self._taken:
            wanted += "_"
        self._taken.add(wanted)
        return wanted

    def _enter_behind(self, reference: str) -> node_def_pb2.NodeDef | None:
        """Returns the Enter node that a kernel passes on its way into a TF1 loop."""
        stack = [producer_of(reference)]
        while stack:
            node = self._body.nodes.get(stack.pop())
            if node is None or node.op not in CHAIN_OPS:
                continue
            if node.op == "Enter":
                return node
            stack += map(producer_of, self._body.data_inputs(node))
        return None

    def _controls_behind(self, reference: str) -> list[str]:
        """Returns what a kernel, or its read, waits for on its way to the product."""
        stack, seen, controls = [producer_of(reference)], set[str](), list[str]()
        while stack:
            name = stack.pop()
            node = self._body.nodes.get(name)
            if node is None or name in seen or node.op not in CHAIN_OPS or node.op == "Enter":
                continue  # what is before Enter is outside of the loop
            seen.add(name)
            controls += [x for x in node.input if x.startswith("^")]
            stack += map(producer_of, self._body.data_inputs(node))
        return [x for x in dict.fromkeys(controls) if x[1:] not in seen]

    def _factor(self, emitter: Emitter, index: int) -> Factor:
        """Returns a factor that comes from outside, read once for each use."""
        factor = self._owner.factors[index]
        reference, dtype = self._references[index], tf.as_dtype(factor.dtype)
        if factor.variable is not None:
            reference = emitter.enter(reference, tf.resource)
            reference = emitter.add("ReadVariableOp", (reference,), "read", dtype=dtype)
            shape = tf.TensorShape(factor.value.shape).as_proto()
            emitter.nodes[-1].attr["_output_shapes"].list.shape.append(shape)
        else:
            reference = emitter.enter(reference, dtype)
        return Factor(reference, factor.dtype, factor.value.shape)

    def _constant(self, emitter: Emitter, node: node_def_pb2.NodeDef, index: int) -> Factor:
        """Returns a factor that is a constant of this body, made once."""
        factor = self._owner.factors[index]
        if index not in self._factors:
            outside = Emitter(self._body, node, self._taken)
            reference = outside.constant(factor.value, "factor")
            self._extra += outside.nodes
            self._factors[index] = Factor(reference, factor.dtype, factor.value.shape)
        known = self._factors[index]
        entered = emitter.enter(known.reference, tf.as_dtype(known.dtype))
        return dataclasses.replace(known, reference=entered)

    def _redirect(self, name: str, call: Call) -> None:
        owner, callees = self._owner, call.callees
        if not any(owner.changed(callee) for callee in callees.values()):
            return
        node = node_def_pb2.NodeDef()
        node.CopyFrom(self._replaced.get(name, self._body.nodes[name]))
        loop = node.op in LOOPS
        several = loop or node.op in BRANCHES
        added = tuple(sorted({i for c in callees.values() for i in owner.needs(c)}))
        dropped: tuple[int, ...] = ()
        lost: tuple[int, ...] = ()
        for (attribute, index), callee in callees.items():
            returns = loop and attribute == "body"
            version = owner.version(callee, added if several else None, returns)
            dropped = version.dropped
            lost = version.lost if not loop else version.dropped
            value = node.attr[attribute]
            target = value.list.func[index] if value.list.func else value.func
            target.name = version.name
        self._rewire(node, call.offset, dropped, added)
        self._renumber(node, set(lost), added if loop else ())
        self._replaced[name] = node

    def _rewire(
        self, node: node_def_pb2.NodeDef, offset: int, dropped: Iterable[int], added: Sequence[int]
    ) -> None:
        gone = {offset + i for i in dropped}
        data = [x for x in node.input if not x.startswith("^")]
        control = [x for x in node.input if x.startswith("^")]
        self._idle += [producer_of(x) for i, x in enumerate(data) if i in gone]
        kept = [x for i, x in enumerate(data) if i not in gone]
        node.ClearField("input")
        node.input.extend([*kept, *(self._references[i] for i in added), *control])
        types = node.attr["T" if node.op in LOOPS else "Tin"].list
        wanted = [t for i, t in enumerate(types.type) if i + offset not in gone]
        wanted += [self._argument_type(i) for i in added]
        types.ClearField("type")
        types.type.extend(wanted)
        for name in ("_read_only_resource_inputs", "_all_non_dynamic_inputs"):
            node.attr.pop(name, None)

    def _renumber(self, node: node_def_pb2.NodeDef, lost: set[int], added: Sequence[int]) -> None:
        """Moves the outputs of a call to their new places; a loop's types are done already."""
        types = node.attr["T" if node.op in LOOPS else "Tout"].list
        before = len(types.type)
        if node.op in LOOPS:
            before += len(lost) - len(added)
        elif lost:
            wanted = [t for i, t in enumerate(types.type) if i not in lost]
            types.ClearField("type")
            types.type.extend(wanted)
        kept = [i for i in range(before) if i not in lost]
        for new, old in enumerate(kept):
            self._alias(
                self._body.reference(node.name, node.op, old),
                self._body.reference(node.name, node.op, new),
            )
        for attribute in ("output_shapes", "_output_shapes"):
            shapes = node.attr[attribute].list.shape if attribute in node.attr else ()
            if len(shapes) == before:
                wanted = [shapes[i] for i in kept] + [self._argument_shape(i) for i in added]
                del node.attr[attribute].list.shape[:]
                node.attr[attribute].list.shape.extend(wanted)
        if "_num_original_outputs" in node.attr:
            node.attr["_num_original_outputs"].i += len(added) - len(lost)

    def _alias(self, old: str, new: str) -> None:
        if self._body.canonical(old) != self._body.canonical(new):
            self._aliases[self._body.canonical(old)] = new

    def _aliased(self, node: node_def_pb2.NodeDef) -> node_def_pb2.NodeDef:
        if not any(self._body.canonical(x) in self._aliases for x in node.input):
            return node
        changed = node_def_pb2.NodeDef()
        changed.CopyFrom(node)
        for i, reference in enumerate(node.input):
            canonical = self._body.canonical(reference)
            changed.input[i] = self._aliases.get(canonical, reference)
        return changed

    def _argument_type(self, index: int) -> int:
        factor = self._owner.factors[index]
        return tf.resource.as_datatype_enum if factor.variable is not None else factor.dtype

    def _argument_shape(self, index: int) -> Any:
        factor = self._owner.factors[index]
        return tf.TensorShape([] if factor.variable is not None else factor.value.shape).as_proto()

    def _write_arguments(self, made: function_pb2.FunctionDef, dropped: set[int]) -> None:
        old = self._body.proto
        kept = [i for i in range(len(old.signature.input_arg)) if i not in dropped]
        made.signature.ClearField("input_arg")
        made.signature.input_arg.extend(old.signature.input_arg[i] for i in kept)
        made.ClearField("arg_attr")
        made.ClearField("resource_arg_unique_id")
        for new, i in enumerate(kept):
            if i in old.arg_attr:
                made.arg_attr[new].CopyFrom(old.arg_attr[i])
            if i in old.resource_arg_unique_id:
                made.resource_arg_unique_id[new] = old.resource_arg_unique_id[i]
        shapes = list(old.attr["_input_shapes"].list.shape) if "_input_shapes" in old.attr else None
        for index in self._added:
            factor = self._owner.factors[index]
            argument = made.signature.input_arg.add(
                name=self._arguments[index], type=self._argument_type(index)
            )
            if factor.variable is not None:
                shape = tf.TensorShape(factor.value.shape).as_proto()
                argument.handle_data.add(dtype=factor.dtype, shape=shape)
        if shapes is not None:
            wanted = [shapes[i] for i in kept if i < len(shapes)]
            wanted += [self._argument_shape(i) for i in self._added]
            del made.attr["_input_shapes"].list.shape[:]
            made.attr["_input_shapes"].list.shape.extend(wanted)

    def _write_returns(
        self, made: function_pb2.FunctionDef, dropped: set[int], returns_added: bool
    ) -> None:
        for output, reference in self._returned.items():
            made.ret[output] = self._aliases.get(reference, reference)
        old = self._body.proto.signature.output_arg
        made.signature.ClearField("output_arg")
        for i, argument in enumerate(old):
            if i in dropped:
                made.ret.pop(argument.name)
            else:
                made.signature.output_arg.add().CopyFrom(argument)
        for index in self._added if returns_added else ():
            name = f"{self._arguments[index]}_out"
            made.signature.output_arg.add(name=name, type=self._argument_type(index))
            made.ret[name] = self._arguments[index]


def _without_nodes(proto: function_pb2.FunctionDef) -> function_pb2.FunctionDef:
    """Returns a copy without the nodes, which are most of it."""
    bare = function_pb2.FunctionDef()
    bare.signature.CopyFrom(proto.signature)
    for field in ("attr", "ret", "control_ret"):
        for key, value in getattr(proto, field).items():
            if isinstance(value, str):
                getattr(bare, field)[key] = value
            else:
                getattr(bare, field)[key].CopyFrom(value)
    return bare


def _keep_controls(made: function_pb2.FunctionDef, present: set[str]) -> None:
    lost = [name for name, node in made.control_ret.items() if node not in present]
    for name in lost:
        del made.control_ret[name]
    kept = [name for name in made.signature.control_output if name not in lost]
    made.signature.ClearField("control_output")
    made.signature.control_output.extend(kept)


def _check_closed(made: function_pb2.FunctionDef) -> None:
    """Guards against a slip of this module: every reference must lead somewhere."""
    known = {node.name for node in made.node_def}
    known |= {argument.name for argument in made.signature.input_arg}
    references = [x for node in made.node_def for x in node.input] + list(made.ret.values())
    dangling = sorted({producer_of(x) for x in references} - known)
    if dangling:
        raise RuntimeError(f"rewriting {made.signature.name} left {dangling[:5]} dangling")
