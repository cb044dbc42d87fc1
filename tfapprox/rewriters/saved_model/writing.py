"""Writes a SavedModel anew around its replaced kernels, file by file."""

import functools
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.body import Body, FreshNames, producer_of
from tfapprox.rewriters.saved_model.body_rewriting import BodyRewriter
from tfapprox.rewriters.saved_model.checkpoint import write_checkpoint
from tfapprox.rewriters.saved_model.cleaning import drop_dead, needed_functions, unify_handles
from tfapprox.rewriters.saved_model.collections import (
    factor_variable,
    rewrite_contexts,
    rewrite_variables,
)
from tfapprox.rewriters.saved_model.files import OBJECT_GRAPH_KEY
from tfapprox.rewriters.saved_model.objects import (
    SavedGraph,
    StoredGraph,
    remove_nodes,
    rename_functions,
    sequence_nodes,
    slot_variables_of,
    splice,
)
from tfapprox.rewriters.saved_model.replacements import FactorTensor, Replacement
from tfapprox.rewriters.saved_model.resaving import NewTensor, SaverRewriter
from tfapprox.rewriters.saved_model.saver import (
    SaverSide,
    find_side,
    restored_tensors,
    tensor_lists,
)
from tfapprox.rewriters.saved_model.sites import KernelUses
from tfapprox.rewriters.saved_model.source import SavedModelSource, explained
from tfapprox.rewriters.saved_model.specialising import Specialiser

MetaGraph: TypeAlias = meta_graph_pb2.MetaGraphDef
_CHECKPOINT_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def write_saved_model(
    source: SavedModelSource, replacements: Mapping[str, Factorization], directory: str | Path
) -> None:
    """Writes the SavedModel with the kernels of some sites factorized.

    Args:
      source: the opened model; its files are only read.
      replacements: site name -> factorization of its kernel.
      directory: where to write; made if need be, and empty.

    Raises:
      UserError: a name is no site, a factorization doesn't fit its kernel, or something
        in the model can't be preserved.
    """
    with explained(source.files.path, "rewritten"):
        write(source, replacements, Path(directory))


def write(
    source: SavedModelSource,
    replacements: Mapping[str, Factorization],
    directory: Path,
    writer: "type[Writer] | None" = None,
) -> None:
    """See `write_saved_model`; a `writer` of one's own may name things otherwise."""
    directory.mkdir(parents=True, exist_ok=True)
    proto, tensors = (writer or Writer)(source, replacements).result()
    for relative in source.files.other_files():
        (directory / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.files.path / relative, directory / relative)
    (directory / "saved_model.pb").write_bytes(proto.SerializeToString())
    if tensors:
        write_checkpoint(directory / "variables" / "variables", tensors)
    if (source.files.path / "fingerprint.pb").is_file():
        _write_fingerprint(directory)


def _write_fingerprint(directory: Path) -> None:
    from tensorflow.python.saved_model import fingerprinting_utils

    fingerprinting_utils.write_fingerprint(str(directory))


class Writer:
    """One rewrite from start to end."""

    def __init__(self, source: SavedModelSource, replacements: Mapping[str, Factorization]):
        self._source, self._files = source, source.files
        self._table = source.table
        self._meta = type(source.files.meta)()
        _copy_but_graph(source.files.meta, self._meta)
        self._factors: list[FactorTensor] = []
        self._replacements = self._plan(replacements)
        self._specialiser = Specialiser(source.tracer, self._replacements, self._factors)
        self._removed = {k for k in self._specialiser.removed if k in self._table.variables}
        self._forgotten = frozenset((*self._removed, *source.duplicates, *self._slot_keys()))
        self._nodes: dict[str, node_def_pb2.NodeDef] = {}
        self._references: dict[int, str] = {}
        self._keys: list[str] = []
        self._ordinals: Counter[str] = Counter()

    def result(
        self,
    ) -> tuple[saved_model_pb2.SavedModel, list[tuple[str, Callable[[], np.ndarray]]]]:
        """Returns the new SavedModel message and the tensors of its checkpoint."""
        self._check_other_graphs()
        stored = self._rewrite_objects()
        self._rewrite_graph(stored)
        proto = saved_model_pb2.SavedModel(
            saved_model_schema_version=self._files.proto.saved_model_schema_version
        )
        for meta in self._files.proto.meta_graphs:
            proto.meta_graphs.append(self._meta if meta is self._files.meta else meta)
        return proto, self._tensors(stored)

    def _check_other_graphs(self) -> None:
        """Other MetaGraphs of the SavedModel stay as they are, if they can."""
        for meta in self._files.proto.meta_graphs:
            if meta is self._files.meta:
                continue
            functions = {f.signature.name: Body(f) for f in meta.graph_def.library.function}
            name = meta.saver_def.restore_op_name
            side = find_side(meta, Body(meta.graph_def), functions, name)
            shared = [t.key for t in restored_tensors(side) if t.key in self._forgotten]
            if shared:
                tags = ",".join(meta.meta_info_def.tags)
                raise UserError(
                    f"variable {shared[0]!r} is shared with the graph tagged {tags!r} of the same "
                    "SavedModel: export the graph to serve by itself, or --exclude that variable"
                )

    def _plan(self, replacements: Mapping[str, Factorization]) -> list[Replacement]:
        sites = {k.name: k for k in self._source.kernels if not k.reason}
        unknown = sorted(set(replacements) - set(sites))
        if unknown:
            raise UserError(f"no site is called {unknown[0]!r}; see inspect for the names")
        chosen = {name: (sites[name], replacements[name]) for name in replacements}
        roots = {root for kernel, _ in chosen.values() for root in kernel.roots}
        for kernel in sites.values():
            if kernel.name not in chosen and kernel.roots & roots:
                # It shares a variable with a replaced one, so it must hold its own part.
                whole = Factorization((Stage(np.ascontiguousarray(kernel.first.kernel)),))
                chosen[kernel.name] = (kernel, whole)
        return [
            self._replacement(kernel, factorization) for kernel, factorization in chosen.values()
        ]

    def _replacement(self, kernel: KernelUses, factorization: Factorization) -> Replacement:
        _check_fit(kernel, factorization)
        variables = sorted(
            (r for r in kernel.roots if r in self._table.variables),
            key=lambda r: (-self._table.variables[r].size, r),
        )
        base = self._table.variables[variables[0]].name if variables else kernel.name
        indices = []
        for number, stage in enumerate(factorization.stages):
            flat = kernel.first.kind in ("dense", "einsum")
            value = np.ascontiguousarray(stage.kernel[0, 0] if flat else stage.kernel)
            indices.append(len(self._factors))
            name = f"{base}_factor_{number}"
            self._factors.append(
                FactorTensor(kernel.name, name, value, variables[0] if variables else None)
            )
        return Replacement(kernel, factorization, tuple(indices))

    def _slot_keys(self) -> set[str]:
        objects = {n for key in self._removed for n in self._table.variables[key].objects}
        slots = slot_variables_of(self._files.meta.object_graph_def, objects)
        return {self._table.of_object[n] for n in slots if n in self._table.of_object}

    def _key(self, index: int) -> str:
        """Returns the checkpoint's name for a factor."""
        for factor in self._factors[len(self._keys) : index + 1]:
            variable = factor.variable or factor.site
            path, suffix, _ = variable.partition("|")[0].partition(_CHECKPOINT_SUFFIX)
            key = ""
            while not key or key in self._files.tensor_shapes:
                key = f"{path}_factor_{self._ordinals[variable]}{suffix}"
                self._ordinals[variable] += 1
            self._keys.append(key)
        return self._keys[index]

    # The main graph and the function library.

    def _rewrite_graph(self, stored: StoredGraph | None) -> None:
        graph = self._source.files.meta.graph_def
        self._nodes = dict(self._source.main.nodes)
        self._make_references()
        rewriter = BodyRewriter(self._specialiser, self._source.tracer.main, (), self._references)
        self._nodes = {node.name: node for node in (*rewriter.nodes(), *self._new_nodes)}
        self._rewrite_saver(stored)
        superfluous = unify_handles(self._nodes, self._table, self._source.live_main)
        forgotten = [k for k in self._forgotten if k in self._table.variables]
        handles = {h for key in forgotten for h in self._table.variables[key].handles}
        drop_dead(self._nodes, handles | superfluous, self._source.live_main)
        self._rewrite_collections()
        made = self._meta.graph_def
        made.versions.CopyFrom(graph.versions)
        made.node.extend(self._nodes.values())
        made.library.gradient.extend(graph.library.gradient)
        made.library.registered_gradients.extend(graph.library.registered_gradients)
        made.library.function.extend(self._functions())

    def _functions(self) -> list[function_pb2.FunctionDef]:
        """Returns the new function library."""
        roots = set(self._meta.object_graph_def.concrete_functions)
        library = self._meta.graph_def.library
        roots |= {registered.gradient_func for registered in library.registered_gradients}
        # A public function that got a new name is no longer needed under the old one.
        gone = self._source.tracer.entries.keys() - roots
        old = {n: body for n, body in self._source.functions.items() if n not in gone}
        return needed_functions(
            self._specialiser.functions, old, self._source.main, roots, self._nodes.values()
        )

    def _make_references(self) -> None:
        """Makes a main-graph node for every factor that isn't a constant of some function."""
        self._new_nodes: list[node_def_pb2.NodeDef] = []
        wanted = {
            i
            for instance in self._source.tracer.instances
            for i in self._specialiser.needs(instance)
        }
        names = FreshNames(self._nodes)
        for index in sorted(wanted):
            factor = self._factors[index]
            name = names.get(factor.name)
            node = node_def_pb2.NodeDef(name=name)
            if factor.variable is not None:
                node.op = "VarHandleOp"
                node.attr["shared_name"].s = name.encode()
                node.attr["dtype"].type = factor.dtype
                node.attr["shape"].shape.CopyFrom(tf.TensorShape(factor.value.shape).as_proto())
                node.attr["_output_shapes"].list.shape.add()
                node.device = self._device(factor.variable)
            else:
                node.op = "Const"
                node.attr["dtype"].type = factor.dtype
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(factor.value))
            self._nodes[name] = node
            self._new_nodes.append(node)
            self._references[index] = name

    def _device(self, key: str) -> str:
        handles = self._table.variables[key].handles
        return self._source.main.nodes[handles[0]].device if handles else ""

    def _rewrite_collections(self) -> None:
        """Lists the factors where TF1's collections listed the variables they replace."""
        gone = {h for k in self._removed for h in self._table.variables[k].handles}
        by_handle = {
            handle: [i for i in indices if i in self._references]
            for key, indices in self._indices_by_variable().items()
            for handle in self._table.variables[key].handles
        }
        made: dict[str, node_def_pb2.NodeDef] = {}
        old = self._source.main.nodes
        for collection in self._meta.collection_def.values():
            rewrite_variables(
                collection,
                gone,
                lambda handle, old: [
                    factor_variable(self._references[i], self._factors[i].value, old, made)
                    for i in by_handle[handle]
                ],
            )
        self._nodes.update(made)
        inserted: dict[str, list[str]] = {}
        for name in self._nodes.keys() - old.keys():
            inserted.setdefault(name.rpartition("/")[0], []).append(name)
        for name, collection in self._meta.collection_def.items():
            rewrite_contexts(name, collection, self._nodes, inserted)

    def _rewrite_saver(self, stored: StoredGraph | None) -> None:
        added = [
            NewTensor(self._key(i), name, self._factors[i].dtype, self._factors[i].value.shape)
            for i, name in self._references.items()
            if self._factors[i].variable is not None
        ]
        saver = self._meta.saver_def
        for side, method, last in (
            (self._source.saving, SaverRewriter.save, saver.save_tensor_name),
            (self._source.restoring, SaverRewriter.restore, saver.restore_op_name),
        ):
            if side is None:
                if added:
                    raise UserError(
                        f"{self._files.path} has variables but no saver: export it again"
                    )
                continue
            rewriter = SaverRewriter(side, self._forgotten, added)
            method(rewriter)
            self._store_side(side, rewriter, producer_of(last))
        if stored is not None and self._source.saving is not None:
            self._update_object_graph_constant(self._source.saving, stored)

    def _store_side(self, side: SaverSide, rewriter: SaverRewriter, last: str) -> None:
        if side.call is None:
            rewriter.require_assignments(last)
            for name in rewriter.gone:
                self._nodes.pop(name, None)
            old = side.body.nodes
            self._nodes.update({k: v for k, v in rewriter.nodes.items() if v is not old.get(k)})
            return
        function, inputs = rewriter.function()
        self._specialiser.functions[function.signature.name] = function
        call = node_def_pb2.NodeDef()
        call.CopyFrom(side.call)
        controls = [x for x in call.input if x.startswith("^")]
        call.ClearField("input")
        call.input.extend([*inputs, *controls])
        del call.attr["Tin"].list.type[:]
        call.attr["Tin"].list.type.extend(a.type for a in function.signature.input_arg)
        self._nodes[call.name] = call

    def _update_object_graph_constant(self, side: SaverSide, stored: StoredGraph) -> None:
        """Stores the checkpoint's object graph where the saving side takes it from."""
        for node in (n for n in side.body.nodes.values() if n.op == "SaveV2"):
            names, _ = tensor_lists(side.body, node)
            if OBJECT_GRAPH_KEY not in names:
                continue
            reference = side.body.data_inputs(node)[3 + names.index(OBJECT_GRAPH_KEY)]
            name = side.main_graph_node(reference)
            if name in self._nodes and self._nodes[name].op == "Const":
                constant = node_def_pb2.NodeDef()
                constant.CopyFrom(self._nodes[name])
                value = tf.make_tensor_proto(stored.SerializeToString(), tf.string, [])
                constant.attr["value"].tensor.CopyFrom(value)
                self._nodes[name] = constant

    # The object graphs.

    def _rewrite_objects(self) -> StoredGraph | None:
        """Rewrites both object graphs; returns the checkpoint's, None if there is none."""
        saved = self._meta.object_graph_def
        if not saved.nodes:
            return None
        stored = self._table.checkpoint_objects
        counterpart = self._table.checkpoint_nodes
        new_nodes = self._add_factor_objects(saved)
        stand_ins, stored_ins = self._stand_ins(new_nodes)
        stored_new = type(stored)()
        stored_new.CopyFrom(stored)
        for key, indices in self._indices_by_variable().items():
            old = [counterpart[o] for o in self._table.variables[key].objects if o in counterpart]
            made = [self._add_stored(stored_new, i) for i in indices]
            stored_ins.update({node: made for node in old})
        sequences = sequence_nodes(saved)
        splice(saved.nodes, stand_ins, sequences)
        stored_sequences = {counterpart[n] for n in sequences if n in counterpart}
        splice(stored_new.nodes, stored_ins, stored_sequences)
        self._rewrite_captures(saved, new_nodes, stand_ins)
        slots = slot_variables_of(saved, set(stand_ins))
        stored_slots = slot_variables_of(stored_new, set(stored_ins))
        splice(saved.nodes, {node: [] for node in slots}, sequences)
        splice(stored_new.nodes, {node: [] for node in stored_slots}, stored_sequences)
        places = remove_nodes(saved, set(stand_ins) | slots)
        for function in saved.concrete_functions.values():
            bound = [places[node] for node in function.bound_inputs]
            del function.bound_inputs[:]
            function.bound_inputs.extend(bound)
        remove_nodes(stored_new, set(stored_ins) | stored_slots)
        return stored_new

    def _indices_by_variable(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {key: [] for key in sorted(self._removed)}
        for index, factor in enumerate(self._factors):
            if factor.variable is not None:
                found[factor.variable].append(index)
        return found

    def _add_factor_objects(self, saved: SavedGraph) -> dict[int, int]:
        """Adds a node for every factor that is no constant inside a function."""
        made = {}
        captured = {
            i for e in self._source.tracer.entries.values() for i in self._specialiser.needs(e)
        }
        for index, factor in enumerate(self._factors):
            if factor.variable is not None:
                old = saved.nodes[self._table.variables[factor.variable].objects[0]].variable
                node = saved.nodes.add()
                node.variable.CopyFrom(old)
                node.variable.name = factor.name
                node.variable.dtype = factor.dtype
                node.variable.shape.CopyFrom(tf.TensorShape(factor.value.shape).as_proto())
                made[index] = len(saved.nodes) - 1
            elif index in captured:
                node = saved.nodes.add(registered_name="tf.TrackableConstant")
                # The main graph's constant gets exactly this name: see _make_references.
                node.constant.operation = self._constant_name(index)
                made[index] = len(saved.nodes) - 1
        return made

    def _constant_name(self, index: int) -> str:
        if not self._nodes:
            self._nodes = dict(self._source.main.nodes)
            self._make_references()
        return self._references[index]

    def _stand_ins(self, new_nodes: Mapping[int, int]) -> tuple[dict, dict]:
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
        for key, indices in self._indices_by_variable().items():
            for node in self._table.variables[key].objects:
                stand_ins[node] = [new_nodes[i] for i in indices]
        return stand_ins, stored

    def _add_stored(self, stored: StoredGraph, index: int) -> int:
        node = stored.nodes.add()
        node.attributes.add(
            name="VARIABLE_VALUE",
            full_name=self._factors[index].name,
            checkpoint_key=self._key(index),
        )
        node.has_checkpoint_values.value = True
        return len(stored.nodes) - 1

    def _rewrite_captures(
        self, saved: SavedGraph, new_nodes: Mapping[int, int], stand_ins: dict
    ) -> None:
        """Gives every public function its version, and its captures to match."""
        names = {}
        for name, instance in self._source.tracer.entries.items():
            function = saved.concrete_functions[name]
            bound = list(function.bound_inputs)
            if self._specialiser.changed(instance):
                version = self._specialiser.version(instance)
                names[name] = version.name
                free = len(instance.bindings) - len(bound)
                bound = [n for i, n in enumerate(bound) if free + i not in version.dropped]
                bound += [new_nodes[i] for i in version.added]
            bound = [stand_ins[n][0] if n in stand_ins else n for n in bound]
            del function.bound_inputs[:]
            function.bound_inputs.extend(bound)
        rename_functions(saved, names)
        self._drop_unused_constants(saved, new_nodes, stand_ins)

    def _drop_unused_constants(
        self, saved: SavedGraph, new_nodes: Mapping[int, int], stand_ins: dict
    ) -> None:
        bound = {n for f in saved.concrete_functions.values() for n in f.bound_inputs}
        main = self._source.tracer.main.values
        for index, node in enumerate(saved.nodes):
            if node.WhichOneof("kind") != "constant" or index in new_nodes.values():
                continue
            value = main.get(node.constant.operation)
            if index not in bound and value is not None and value.roots & self._specialiser.removed:
                stand_ins[index] = []
        splice(saved.nodes, {n: [] for n, to in stand_ins.items() if not to}, sequence_nodes(saved))

    # The checkpoint.

    def _tensors(self, stored: StoredGraph | None) -> list[tuple[str, Callable[[], np.ndarray]]]:
        kept = {k.partition("|")[0] for k in self._table.variables if k not in self._forgotten}
        forgotten = {key.partition("|")[0] for key in self._forgotten} - kept
        tensors: list[tuple[str, Callable[[], np.ndarray]]] = [
            (name, functools.partial(self._files.tensor, name))
            for name in sorted(self._files.tensor_shapes)
            if name not in forgotten and name != OBJECT_GRAPH_KEY
        ]
        for index, factor in enumerate(self._factors):
            if factor.variable is not None:
                tensors.append((self._key(index), functools.partial(np.asarray, factor.value)))
        if stored is not None and OBJECT_GRAPH_KEY in self._files.tensor_shapes:
            content = np.array(stored.SerializeToString(), object)
            tensors.append((OBJECT_GRAPH_KEY, lambda: content))
        return tensors


def _copy_but_graph(old: MetaGraph, new: MetaGraph) -> None:
    """Copies a MetaGraphDef without its graph, which is most of it."""
    for field, value in old.ListFields():
        if field.name == "graph_def":
            continue
        if field.is_repeated and field.message_type and field.message_type.GetOptions().map_entry:
            for key in value:
                getattr(new, field.name)[key].CopyFrom(value[key])
        elif field.is_repeated:
            getattr(new, field.name).extend(value)
        else:
            getattr(new, field.name).CopyFrom(value)


def _check_fit(kernel: KernelUses, factorization: Factorization) -> None:
    first, last = factorization.stages[0].shape, factorization.stages[-1].shape
    wanted = kernel.first.kernel.shape
    if (first.in_channels, last.out_channels) != wanted[2:]:
        raise UserError(
            f"the factorization of {kernel.name} maps {first.in_channels} to "
            f"{last.out_channels} channels, but its kernel is {list(wanted)}"
        )
