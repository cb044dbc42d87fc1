"""Rewrites one graph or function: emits stages, redirects calls, drops what is left over."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2

from tfapprox.accounting.factorization import Factorization
from tfapprox.rewriters.saved_model.body import producer_of
from tfapprox.rewriters.saved_model.call_redirecting import CallRewriter, Versions
from tfapprox.rewriters.saved_model.composing import emit_composition, is_composition, layout_of
from tfapprox.rewriters.saved_model.emitter import Emitter, Factor
from tfapprox.rewriters.saved_model.function_header import FunctionHeader
from tfapprox.rewriters.saved_model.generation import materialised
from tfapprox.rewriters.saved_model.offsets import bias_behind, channels_last, emit_shifted
from tfapprox.rewriters.saved_model.provenance import Static
from tfapprox.rewriters.saved_model.provenance_ops import TRANSPARENT
from tfapprox.rewriters.saved_model.pruning import CHAIN_OPS, without_idle
from tfapprox.rewriters.saved_model.replacements import Replacement
from tfapprox.rewriters.saved_model.sites import SiteUse
from tfapprox.rewriters.saved_model.stages import emit_chain
from tfapprox.rewriters.saved_model.tracing import Call, Instance


class Owner(Versions, Protocol):
    """What a `BodyRewriter` asks of the `Specialiser`; see there."""

    removed: frozenset[str]

    def uses(self, instance: Instance) -> Mapping[str, tuple[Replacement, SiteUse]]: ...
    def composed(self, instance: Instance) -> list[Replacement]: ...
    def is_local(self, instance: Instance, node: str) -> bool: ...
    def changed(self, instance: Instance) -> bool: ...
    def dropped(self, instance: Instance) -> tuple[int, ...]: ...
    def lost(self, instance: Instance) -> tuple[int, ...]: ...


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
        self._sums: set[str] = set()
        self._idle: list[str] = []
        self._factors: dict[int, Factor] = {}
        self._returned: dict[str, str] = dict(self._body.returns)

    def nodes(self) -> list[node_def_pb2.NodeDef]:
        """Returns the new nodes; what the rewrite made superfluous is left out."""
        for name, (replacement, use) in self._owner.uses(self._instance).items():
            self._emit(name, replacement, use)
        for name, call in self._instance.calls.items():
            if any(self._owner.changed(callee) for callee in call.callees.values()):
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
        """Returns the new function.

        Args:
          name: that it gets.
          returns_added: hand the added factors on as last outputs.
        """
        lost = set(self._owner.lost(self._instance))
        outputs = list(self._body.returns.items())
        self._idle += [producer_of(outputs[i][1]) for i in lost]
        self._returned = {k: v for i, (k, v) in enumerate(outputs) if i not in lost}
        header = FunctionHeader(self._body.proto, name, self.nodes())
        factors = {self._arguments[i]: self._owner.factors[i] for i in self._added}
        header.write_arguments(set(self._owner.dropped(self._instance)), factors)
        returned = {k: self._aliases.get(v, v) for k, v in self._returned.items()}
        header.write_returns(returned, lost, factors if returns_added else {})
        return header.finish()

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
        stages, factors = materialised(
            emitter, replacement.factorization, factors, replacement.shape
        )
        stages = self._into_bias(name, use, stages)
        reference = emit_chain(emitter, self._body, node, use.match, stages, factors, use.flipped)
        (last,) = (made for made in emitter.nodes if made.name == name)
        last.input.extend(x for x in self._controls_behind(operand) if x not in last.input)
        self._extra += [made for made in emitter.nodes if made is not last]
        self._replaced[name] = last
        if producer_of(reference) != name:
            self._sums.add(producer_of(reference))
        self._alias(self._body.reference(name, node.op), reference)
        self._idle.append(producer_of(operand))

    def _into_bias(self, name: str, use: SiteUse, built: Factorization) -> Factorization:
        """Returns the factorization without its offset if the bias behind could take it on."""
        node, channels = self._body.nodes[name], use.match.kernel.shape[3]
        if built.offset is None or use.flipped or not channels_last(node, use.match):
            return built
        bias = bias_behind(self._instance, name, channels)
        if bias is None:
            return built
        addition = self._replaced.get(bias.node, self._body.nodes[bias.node])
        emitter = Emitter(self._body, node, self._taken)
        self._replaced[bias.node] = emit_shifted(emitter, addition, bias, built.offset)
        self._extra += emitter.nodes
        return dataclasses.replace(built, offset=None)

    def _compose(self, replacement: Replacement) -> None:
        """Computes a whole variable from its factors in the place where it was read."""
        kernel = replacement.kernel
        read = {x for node in self._remaining() for x in node.input}
        read.update(self._aliases.get(r, r) for r in self._returned.values())
        for reference, value in self._instance.values.items():
            if reference not in read or not isinstance(value, Static):
                continue
            whole = value.op == "Variable" and value.roots == kernel.roots
            if not whole and not is_composition(kernel.first.kernel, kernel.roots, value):
                continue
            producer = producer_of(reference)
            node = self._body.nodes.get(producer)
            if node is not None and node.op in TRANSPARENT:
                continue  # it only hands on what another node read
            if node is None:
                node = node_def_pb2.NodeDef(name=self._node_name(f"{producer}_composed"))
            emitter = Emitter(self._body, node, self._taken)
            factors = [self._factor(emitter, i) for i in replacement.factors]
            stages, factors = materialised(
                emitter, replacement.factorization, factors, replacement.shape
            )
            array = value.value()
            layout = layout_of(kernel.first.kernel, array)
            composed = emit_composition(emitter, stages, factors, layout, array.shape)
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
        node = self._replaced.get(name, self._body.nodes[name])
        rewriter = CallRewriter(self._owner, self._body, node, self._references)
        rewriter.redirect(call)
        self._replaced[name] = rewriter.node
        self._idle += rewriter.idle
        for old, new in rewriter.moved.items():
            self._alias(old, new)

    def _alias(self, old: str, new: str) -> None:
        if self._body.canonical(old) != self._body.canonical(new):
            self._aliases[self._body.canonical(old)] = new

    def _aliased(self, node: node_def_pb2.NodeDef) -> node_def_pb2.NodeDef:
        if node.name in self._sums:
            return node  # it adds to what the old reference names now
        if not any(self._body.canonical(x) in self._aliases for x in node.input):
            return node
        changed = node_def_pb2.NodeDef()
        changed.CopyFrom(node)
        for i, reference in enumerate(node.input):
            canonical = self._body.canonical(reference)
            changed.input[i] = self._aliases.get(canonical, reference)
        return changed
