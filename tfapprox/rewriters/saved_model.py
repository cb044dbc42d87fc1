"""Opens a SavedModel for compression and writes it back with factorized kernels.

The SavedModel is never executed. Its protos are read, the graph that surrounds every
kernel is understood, and a new SavedModel is written in which exactly the nodes around
replaced kernels differ: what a rewrite does not touch survives bit for bit.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf import message
from tensorflow.core.protobuf import meta_graph_pb2

from tfapprox.accounting.factorization import Factorization
from tfapprox.errors import UserError
from tfapprox.rewriters.inspection import Inspection, KeptOperation
from tfapprox.rewriters.provenance import Handle, Provenance, Value
from tfapprox.rewriters.saved_model_body import Body, attribute, producer_of
from tfapprox.rewriters.saved_model_duplicates import merge_duplicates
from tfapprox.rewriters.saved_model_files import SavedModelFiles
from tfapprox.rewriters.saved_model_matching import FORMS, LINEAR
from tfapprox.rewriters.saved_model_saver import find_side, restored_tensors
from tfapprox.rewriters.saved_model_shapes import Occurrence, Shape, ShapeInference
from tfapprox.rewriters.saved_model_sites import (
    KernelUses,
    SiteFinder,
    count_occurrences,
    kept_operation,
    reject_other_uses,
)
from tfapprox.rewriters.saved_model_tracing import Instance, Tracer
from tfapprox.rewriters.saved_model_variables import VariableTable
from tfapprox.serving.signature import Signature, TensorSpec, default_signature, read_signatures

INTERNAL_SIGNATURES = ("__saved_model_init_op", "__saved_model_train_op")
_ASSUMED_SEQUENCE, _ASSUMED_IMAGE = 128, 224


class SavedModelSource:
    """An opened SavedModel.

    Attributes:
      files: its protos and checkpoint.
      signatures: name -> keys, dtypes and shapes of inputs and outputs.
      signature: name of the one whose costs count.
      main: the main graph.
      functions: name -> body of the function library.
      saving, restoring: the saver's two sides.
      table: its variables.
      duplicates: key of a copy -> key of the variable it is a copy of.
      tracer: instances of all functions.
      kernels: every distinct static kernel with its uses; those without a reason
        against them are the sites.
      inspection: the model as the planner sees it.
    """

    def __init__(
        self,
        files: SavedModelFiles,
        signatures: Mapping[str, Signature],
        signature: str | None,
        example_shapes: Mapping[str, Sequence[int]],
    ):
        self.files, self.signatures = files, signatures
        self.signature = signature
        meta = files.meta
        self.main = Body(meta.graph_def)
        self.functions = {f.signature.name: Body(f) for f in meta.graph_def.library.function}
        saver = meta.saver_def
        self.saving = find_side(meta, self.main, self.functions, saver.save_tensor_name)
        self.restoring = find_side(meta, self.main, self.functions, saver.restore_op_name)
        restored = restored_tensors(self.restoring)
        files.check_present(tensor.tensor for tensor in restored)
        self.table = VariableTable(files, self.main, restored)
        self.duplicates = merge_duplicates(files, self.table)
        self.provenance = Provenance(self._read_variable)
        self.tracer = self._trace()
        self.live_main = self.main.reachable(_fetched_nodes(meta))
        self._example_shapes = example_shapes
        self.kernels = self._find_kernels()

    def _read_variable(self, key: str) -> np.ndarray:
        name, _, piece = key.partition("|")
        value = self.files.tensor(name)
        return value[_parse_slice(piece)] if piece else value

    def _trace(self) -> Tracer:
        ignored = set()
        for side in (self.saving, self.restoring):
            if side is not None and side.call is not None:
                ignored.add(side.call.name)
            elif side is not None:
                savers = ("SaveV2", "RestoreV2", "Assign", "AssignVariableOp")
                ignored |= {n for n in side.nodes if self.main.nodes[n].op in savers}
        tracer = Tracer(self.main, self.functions, self.table, self.provenance, ignored)
        graph = self.files.meta.object_graph_def
        bound = {
            name: [self._captured(tracer.main, node) for node in function.bound_inputs]
            for name, function in graph.concrete_functions.items()
        }
        tracer.trace_entries(bound)
        return tracer

    def _captured(self, main: Instance, node: int) -> Value | None:
        if node in self.table.of_object:
            return Handle(self.table.of_object[node])
        saved = self.files.meta.object_graph_def.nodes[node]
        if saved.WhichOneof("kind") == "constant":
            return main.values.get(saved.constant.operation)
        return None

    def _find_kernels(self) -> list[KernelUses]:
        finder = SiteFinder(self.provenance, self.table)
        layouts = {name: self._lay_out(name) for name in self._signature_order()}
        for occurrences, _ in layouts.values():
            for place in occurrences:
                _look_at(finder, place)
        for instance in self.tracer.instances:
            for name, node in instance.body.nodes.items():
                live = instance.body.is_function or name in self.live_main
                if node.op in FORMS and live:
                    finder.add(instance, name, _recorded_x_shape(instance, name))
        for occurrences, assumed in layouts.values():
            if any(not kernel.geometries for kernel in finder.kernels):
                fresh = {id(k) for k in finder.kernels if not k.geometries}
                mine = [p for p in occurrences if _kernel_id(finder, p) in fresh]
                count_occurrences(finder, mine, assumed)
        fetched = [
            tensor.name
            for signature in self.files.meta.signature_def.values()
            for tensor in signature.outputs.values()
        ]
        reject_other_uses(finder, self.tracer, self.live_main, fetched, self.table)
        selected = layouts.get(self.signature, ([], ""))[0]
        self._kept = _kept_operations(finder, selected, self.table)
        return finder.kernels

    def _signature_order(self) -> list[str]:
        others = [name for name in self.signatures if name != self.signature]
        return ([self.signature] if self.signature else []) + others

    def _lay_out(self, name: str) -> tuple[list[Occurrence], str]:
        """Returns the occurrences in a signature, and what was assumed of unknown sizes."""
        signature = self.signatures[name]
        definition = self.files.meta.signature_def[name]
        outputs = [producer_of(t.name) for t in definition.outputs.values() if t.name]
        shapes = {key: self._input_shape(key, spec) for key, spec in signature.inputs.items()}
        places = self._infer(shapes, definition, outputs)
        unknown = any(n is None for shape in shapes.values() for n in shape or ())
        if not unknown or all(_is_known(place) for place in places):
            return places, ""
        guessed = {key: _guess(shape) for key, shape in shapes.items()}
        remark = "; ".join(
            f"input {key} taken as {list(guessed[key] or ())}"
            for key in shapes
            if guessed[key] != shapes[key]
        )
        return self._infer(guessed, definition, outputs), remark

    def _infer(self, shapes: Mapping[str, Shape], definition, outputs: list[str]):
        inputs = {
            producer_of(tensor.name): shapes[key]
            for key, tensor in definition.inputs.items()
            if tensor.name
        }
        sizes = {key: variable.shape for key, variable in self.table.variables.items()}
        inference = ShapeInference(LINEAR, sizes)
        inference.run(self.tracer.main, inputs, outputs)
        return inference.occurrences

    def _input_shape(self, key: str, spec: TensorSpec) -> Shape:
        if key in self._example_shapes:
            return tuple(self._example_shapes[key])
        if spec.shape and spec.shape[0] is None:
            return (1, *spec.shape[1:])
        return spec.shape

    @functools.cached_property
    def inspection(self) -> Inspection:
        """The model as the planner sees it."""
        sites = tuple(kernel.site for kernel in self.kernels if not kernel.reason)
        kept = [
            KeptOperation(k.name, k.first.kind, k.reason, k.site.cost)
            for k in self.kernels
            if k.reason
        ]
        params, size = self._count_parameters()
        return Inspection(sites, (*kept, *self._kept), params, size, tuple(self._notes()))

    def _count_parameters(self) -> tuple[int, int]:
        used = {r for i in self.tracer.instances for v in i.values.values() for r in v.roots}
        counts = [0, 0]
        for key, variable in self.table.variables.items():
            if key in used:
                counts[0] += variable.size
                counts[1] += variable.size * _itemsize(variable.dtype)
        roots = {root: kernel for kernel in self.kernels for root in kernel.roots}
        for root, kernel in roots.items():
            if root not in self.table.variables:
                entries = self.provenance.root_sizes[root]
                counts[0] += entries
                counts[1] += entries * kernel.first.kernel.dtype.itemsize
        return counts[0], counts[1]

    def _notes(self) -> list[str]:
        notes = []
        if self.table.unrestored:
            notes.append(
                "the signatures read variables that the SavedModel does not restore: TF Serving "
                "can't load it as it is (Keras 3 models need model.export(), not "
                "tf.saved_model.save); the compressed model will load there"
            )
        if self.duplicates:
            notes.append(
                f"{len(self.duplicates)} variables are stored twice; the compressed model "
                "keeps one copy"
            )
        if (self.files.path / "keras_metadata.pb").is_file():
            notes.append(
                "Keras's own description of the layers (keras_metadata.pb) would no longer fit "
                "and is left out: load the result with tf.saved_model.load or TF Serving"
            )
        return notes


def open_saved_model(
    path: str | Path,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    example_shapes: Mapping[str, Sequence[int]] | None = None,
) -> SavedModelSource:
    """Opens a SavedModel directory and finds its kernels.

    Args:
      path: the directory; it is only read, now and later.
      tags: of the graph to use.
      signature: whose costs count; serving_default, or else the first by name.
      example_shapes: input key -> shape of one example with its batch axis, to settle
        sizes the signature leaves open.

    Raises:
      UserError: no SavedModel there, a damaged one, an unknown tag set or signature,
        or a kernel with NaN or Inf.
    """
    files = SavedModelFiles(path, tags)
    signatures = {
        name: value
        for name, value in read_signatures(str(path), tags).items()
        if name not in INTERNAL_SIGNATURES
    }
    if signature is not None and signature not in signatures:
        known = ", ".join(signatures) or "none"
        raise UserError(f"{path} has no signature {signature!r}; choose among {known}")
    if signature is None and signatures:
        signature = default_signature(signatures)
    files.check_tensors()
    try:
        return SavedModelSource(files, signatures, signature, example_shapes or {})
    except UserError:
        raise
    except (KeyError, IndexError, ValueError, TypeError, message.Error) as error:
        raise UserError(
            f"{files.path / 'saved_model.pb'} is damaged or of an unknown kind "
            f"({type(error).__name__}: {error}): export the model again"
        ) from error


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
    from tfapprox.rewriters.saved_model_writing import write

    write(source, replacements, Path(directory))


def _fetched_nodes(meta: meta_graph_pb2.MetaGraphDef) -> list[str]:
    """Returns the main-graph nodes that a user of the MetaGraph can ask for."""
    nodes = [meta.saver_def.save_tensor_name, meta.saver_def.restore_op_name]
    for signature in meta.signature_def.values():
        for tensor in signature.outputs.values():
            nodes += [tensor.name, tensor.coo_sparse.values_tensor_name]
            nodes += [tensor.coo_sparse.indices_tensor_name]
            nodes += [tensor.coo_sparse.dense_shape_tensor_name]
            nodes += [part.name for part in tensor.composite_tensor.components]
    for name, collection in meta.collection_def.items():
        if name in ("saved_model_main_op", "legacy_init_op", "table_initializer", "train_op"):
            nodes += collection.node_list.value
    for node in meta.object_graph_def.nodes:
        if node.WhichOneof("kind") == "constant":
            nodes.append(node.constant.operation)
    return [producer_of(name) for name in nodes if name]


def _look_at(finder: SiteFinder, place: Occurrence) -> None:
    node = place.instance.body.nodes[place.node]
    shape = place.inputs[0] if place.inputs else None
    if shape is None and node.op in FORMS:
        shape = _recorded_x_shape(place.instance, place.node)
    finder.add(place.instance, place.node, shape)


def _recorded_x_shape(instance: Instance, name: str) -> Shape:
    """Returns the shape that the graph records for the first input of a node."""
    body = instance.body
    reference = body.data_inputs(body.nodes[name])[0]
    producer, index = body.position(reference)
    if producer in body.nodes:
        recorded = attribute(body.nodes[producer], "_output_shapes").list.shape
    elif producer in body.arguments:
        position = body.arguments.index(producer)
        recorded = ()
        if position in body.proto.arg_attr:
            recorded = attribute(body.proto.arg_attr[position], "_output_shapes").list.shape
        index = 0
    else:
        return None
    if index >= len(recorded) or recorded[index].unknown_rank:
        return None
    return tuple(None if d.size < 0 else d.size for d in recorded[index].dim)


def _kept_operations(
    finder: SiteFinder, places: list[Occurrence], table: VariableTable
) -> tuple[KeptOperation, ...]:
    found: dict[tuple, KeptOperation] = {}
    for place in places:
        refused = finder.refused.get((id(place.instance), place.node))
        if refused is None or not _multiplies(place):
            continue
        operation = kept_operation(finder, place, refused[2], table)
        key = (operation.name, operation.kind, operation.reason)
        if key in found:
            cost = found[key].cost + operation.cost
            operation = KeptOperation(*key, cost)
        found[key] = operation
    return tuple(found.values())


def _multiplies(place: Occurrence) -> bool:
    """Says whether a place is linear in activations; look-ups count in tables of variables."""
    if place.instance.body.nodes[place.node].op != "GatherV2":
        return True
    table = place.instance.static_inputs.get(place.node, {}).get(0)
    rank = len(place.inputs[0] or ())
    return table is not None and rank == 2


def _kernel_id(finder: SiteFinder, place: Occurrence) -> int | None:
    found = finder.matched(place.instance, place.node)
    return id(found[0]) if found else None


def _is_known(place: Occurrence) -> bool:
    return all(shape is not None and None not in shape for shape in place.inputs[:2])


def _guess(shape: Shape) -> Shape:
    if shape is None:
        return None
    size = _ASSUMED_IMAGE if len(shape) > 3 else _ASSUMED_SEQUENCE
    return tuple(size if n is None else n for n in shape)


def _itemsize(dtype: int) -> int:
    from tensorflow.python.framework import dtypes

    return dtypes.as_dtype(dtype).size


def _parse_slice(piece: str) -> tuple[slice, ...]:
    """Returns the slices of RestoreV2's "10 4 0,5:0,4" (full sizes, then start,size)."""
    return tuple(
        slice(None)
        if part == "-"
        else slice(int(part.split(",")[0]), sum(map(int, part.split(","))))
        for part in piece.split(" ")[-1].split(":")
    )
