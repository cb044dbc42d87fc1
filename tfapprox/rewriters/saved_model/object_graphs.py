"""Writes both object graphs anew: factors where a kernel was, captures to match the versions."""

from collections.abc import Mapping

import tensorflow as tf

from tfapprox.rewriters.saved_model.objects import (
    SavedGraph,
    StoredGraph,
    remove_nodes,
    rename_functions,
    sequence_nodes,
    slot_variables_of,
    splice,
)
from tfapprox.rewriters.saved_model.substitution import Substitution


class ObjectGraphsWriter:
    """Rewrites the object graph that Python loads and the checkpoint's."""

    def __init__(
        self, substitution: Substitution, saved: SavedGraph, references: Mapping[int, str]
    ):
        """Args:
        saved: a copy of the old graph, to be changed in place.
        references: factor -> node of the main graph; see `MainGraphWriter`.
        """
        self._substitution, self._saved, self._references = substitution, saved, references
        self._source, self._table = substitution.source, substitution.source.table
        self._specialiser, self._factors = substitution.specialiser, substitution.factors
        self._made = self._add_factors()

    def write(self) -> StoredGraph:
        """Rewrites the saved graph in place and returns the checkpoint's."""
        saved, counterpart = self._saved, self._table.checkpoint_nodes
        stand_ins, stored_ins = self._stand_ins()
        stored = type(self._table.checkpoint_objects)()
        stored.CopyFrom(self._table.checkpoint_objects)
        for key, indices in self._substitution.indices_by_variable().items():
            old = [counterpart[o] for o in self._table.variables[key].objects if o in counterpart]
            made = [self._add_stored(stored, i) for i in indices]
            stored_ins.update({node: made for node in old})
        sequences = sequence_nodes(saved)
        splice(saved.nodes, stand_ins, sequences)
        stored_sequences = {counterpart[n] for n in sequences if n in counterpart}
        splice(stored.nodes, stored_ins, stored_sequences)
        self._rewrite_captures(stand_ins)
        slots = slot_variables_of(saved, set(stand_ins))
        stored_slots = slot_variables_of(stored, set(stored_ins))
        splice(saved.nodes, {node: [] for node in slots}, sequences)
        splice(stored.nodes, {node: [] for node in stored_slots}, stored_sequences)
        places = remove_nodes(saved, set(stand_ins) | slots)
        for function in saved.concrete_functions.values():
            bound = [places[node] for node in function.bound_inputs]
            del function.bound_inputs[:]
            function.bound_inputs.extend(bound)
        remove_nodes(stored, set(stored_ins) | stored_slots)
        return stored

    def _add_factors(self) -> dict[int, int]:
        """Adds a node for every factor that is no constant inside a function."""
        made = {}
        captured = {
            i for e in self._source.tracer.entries.values() for i in self._specialiser.needs(e)
        }
        for index, factor in enumerate(self._factors):
            if factor.fold is not None:
                continue  # only the main graph has it
            if factor.variable is not None:
                first = self._table.variables[factor.variable].objects[0]
                node = self._saved.nodes.add()
                node.variable.CopyFrom(self._saved.nodes[first].variable)
                node.variable.name = factor.name
                node.variable.dtype = factor.dtype
                node.variable.shape.CopyFrom(tf.TensorShape(factor.value.shape).as_proto())
                made[index] = len(self._saved.nodes) - 1
            elif index in captured:
                node = self._saved.nodes.add(registered_name="tf.TrackableConstant")
                node.constant.operation = self._references[index]
                made[index] = len(self._saved.nodes) - 1
        return made

    def _stand_ins(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        counterpart = self._table.checkpoint_nodes
        stand_ins: dict[int, list[int]] = {}
        stored: dict[int, list[int]] = {}
        copies = {
            node: key
            for key, variable in self._table.variables.items()
            for node in variable.objects[1:]
        }
        for node, key in copies.items():
            first = self._table.variables[key].objects[0]
            stand_ins[node] = [first]
            if node in counterpart and counterpart[node] != counterpart.get(first):
                stored[counterpart[node]] = [counterpart[first]]
        for key, indices in self._substitution.indices_by_variable().items():
            for node in self._table.variables[key].objects:
                stand_ins[node] = [self._made[i] for i in indices]
        return stand_ins, stored

    def _add_stored(self, stored: StoredGraph, index: int) -> int:
        node = stored.nodes.add()
        node.attributes.add(
            name="VARIABLE_VALUE",
            full_name=self._factors[index].name,
            checkpoint_key=self._substitution.key(index),
        )
        node.has_checkpoint_values.value = True
        return len(stored.nodes) - 1

    def _rewrite_captures(self, stand_ins: dict[int, list[int]]) -> None:
        """Gives every public function its version, and its captures to match."""
        names = {}
        for name, instance in self._source.tracer.entries.items():
            function = self._saved.concrete_functions[name]
            bound = list(function.bound_inputs)
            if self._specialiser.changed(instance):
                version = self._specialiser.version(instance)
                names[name] = version.name
                free = len(instance.bindings) - len(bound)
                bound = [n for i, n in enumerate(bound) if free + i not in version.dropped]
                bound += [self._made[i] for i in version.added]
            bound = [stand_ins[n][0] if n in stand_ins else n for n in bound]
            del function.bound_inputs[:]
            function.bound_inputs.extend(bound)
        rename_functions(self._saved, names)
        self._drop_unused_constants(stand_ins)

    def _drop_unused_constants(self, stand_ins: dict[int, list[int]]) -> None:
        saved = self._saved
        bound = {n for f in saved.concrete_functions.values() for n in f.bound_inputs}
        main = self._source.tracer.main.values
        for index, node in enumerate(saved.nodes):
            if node.WhichOneof("kind") != "constant" or index in self._made.values():
                continue
            value = main.get(node.constant.operation)
            if index not in bound and value is not None and value.roots & self._specialiser.removed:
                stand_ins[index] = []
        splice(saved.nodes, {n: [] for n, to in stand_ins.items() if not to}, sequence_nodes(saved))
