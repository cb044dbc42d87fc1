"""Opens a SavedModel for compression and writes it back with factorized kernels.

The SavedModel is never executed. Its protos are read, the graph that surrounds every
kernel is understood, and a new SavedModel is written in which exactly the nodes around
replaced kernels differ: what a rewrite does not touch survives bit for bit.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf import message
from tensorflow.python.framework import dtypes

from tfapprox.errors import UserError
from tfapprox.rewriters.inspection import Inspection, KeptOperation
from tfapprox.rewriters.saved_model.body import Body, producer_of
from tfapprox.rewriters.saved_model.captures import check_captures
from tfapprox.rewriters.saved_model.duplicates import merge_duplicates
from tfapprox.rewriters.saved_model.files import SavedModelFiles
from tfapprox.rewriters.saved_model.finding import fetched_nodes, find_kernels
from tfapprox.rewriters.saved_model.folded_variables import folded_values
from tfapprox.rewriters.saved_model.layout import SignatureLayouts
from tfapprox.rewriters.saved_model.provenance import Handle, Provenance, Static, Value
from tfapprox.rewriters.saved_model.reach import reaching_operations
from tfapprox.rewriters.saved_model.saver import find_side, restored_tensors
from tfapprox.rewriters.saved_model.sites import KernelUses
from tfapprox.rewriters.saved_model.tracing import Instance, Tracer
from tfapprox.rewriters.saved_model.variables import VariableTable
from tfapprox.serving.signature import Signature, default_signature, read_signatures

_SYMPTOMS = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    message.Error,
)
_REMARKABLE_BYTES = 1 << 10
INTERNAL_SIGNATURES = ("__saved_model_init_op", "__saved_model_train_op")


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
        self.live_main = self.main.reachable(fetched_nodes(meta))
        self._example_shapes = example_shapes
        self._kept: tuple[KeptOperation, ...] = ()
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
        folded = self._folded()
        tracer = Tracer(self.main, self.functions, self.table, self.provenance, ignored, folded)
        bound = {}
        for name, saved in self.files.meta.object_graph_def.concrete_functions.items():
            check_captures(name, saved, len(tracer.function(name).arguments))
            bound[name] = [self._captured(tracer.main, node) for node in saved.bound_inputs]
        tracer.trace_entries(bound)
        return tracer

    def _folded(self) -> dict[str, Static]:
        """Returns the variables that restoring computes, with their values."""
        if self.restoring is None:
            return {}
        sizes = {key: variable.size for key, variable in self.table.variables.items()}
        values = folded_values(self.restoring, sizes, self.provenance)
        keyed = {self.table.add_folded(self.main, h): value for h, value in values.items()}
        return {key: value for key, value in keyed.items() if key is not None}

    def _captured(self, main: Instance, node: int) -> Value | None:
        if node in self.table.of_object:
            return Handle(self.table.of_object[node])
        saved = self.files.meta.object_graph_def.nodes[node]
        if saved.WhichOneof("kind") == "constant":
            return main.values.get(saved.constant.operation)
        return None

    def _find_kernels(self) -> list[KernelUses]:
        meta = self.files.meta
        layouts = SignatureLayouts(meta, self.tracer, self.table, self._example_shapes)
        chosen = {} if self.signature is None else {self.signature: self.signatures[self.signature]}
        laid_out = layouts.lay_out({**chosen, **self.signatures})
        kernels, self._kept = find_kernels(meta, self.tracer, self.table, self.provenance, laid_out)
        return kernels

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

    @functools.cached_property
    def _used_roots(self) -> set[str]:
        """What functions, and the main graph apart from saving and restoring, read."""
        main, meta = self.tracer.main, self.files.meta
        saver = {meta.saver_def.save_tensor_name, meta.saver_def.restore_op_name}
        asked = set(fetched_nodes(meta)) - {producer_of(name) for name in saver if name}
        served = self.main.reachable(asked)
        values = [v for i in self.tracer.instances if i is not main for v in i.values.values()]
        values += [v for name, v in main.values.items() if producer_of(name) in served]
        return {root for value in values for root in value.roots}

    def _count_parameters(self) -> tuple[int, int]:
        used = self._used_roots
        counts = [0, 0]
        for key, variable in self.table.variables.items():
            if key in used and variable.stored:
                counts[0] += variable.size
                counts[1] += variable.size * dtypes.as_dtype(variable.dtype).size
        roots = {root: kernel for kernel in self.kernels for root in kernel.roots}
        for root, kernel in roots.items():
            if root not in self.table.variables:
                entries = self.provenance.root_sizes[root]
                counts[0] += entries
                counts[1] += entries * kernel.first.kernel.dtype.itemsize
        return counts[0], counts[1]

    def _notes(self) -> list[str]:
        notes = []
        sides = [side for side in (self.saving, self.restoring) if side is not None]
        own = {name for side in sides for name in (*side.nodes, side.body.name)}
        reaching = reaching_operations(self.files.meta, own)
        if reaching:
            notes.append(
                f"the graph reaches beyond its inputs when it is run ({', '.join(reaching)}): "
                "verifying and measuring run it, so do that in a sandbox unless you trust it"
            )
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
        variables = self.table.variables.items()
        idle = [v for k, v in variables if v.stored and k not in self._used_roots]
        size = sum(v.size * dtypes.as_dtype(v.dtype).size for v in idle)
        if size > _REMARKABLE_BYTES:
            notes.append(
                f"{len(idle)} variables ({size >> 10} KiB) are read by no function, such as an "
                "optimizer's state, and stay: export the model without them"
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
      example_shapes: input key -> shape of an array with its batch axis, to settle
        other sizes that the signature leaves open.

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
    with explained(files.path / "saved_model.pb", "understood"):
        opened = SavedModelSource(files, signatures, signature, example_shapes or {})
        _ = opened.inspection  # made now, so that all damage shows here
        return opened


@contextlib.contextmanager
def explained(path: Path, what: str) -> Iterator[None]:
    """Turns the errors that a damaged graph leads to into one line.

    A graph that is sound but of an unforeseen kind may end here as well, and the line says
    so; the error itself stays attached as the cause.

    Args:
      path: of the culprit.
      what: can't be done to it.
    """
    try:
        yield
    except UserError:
        raise
    except _SYMPTOMS as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path} can't be {what} ({type(error).__name__}: {reason}): it is damaged, export "
            "the model again; or, if TensorFlow loads it, tfapprox has a fault, please report it"
        ) from error


def _parse_slice(piece: str) -> tuple[slice, ...]:
    """Returns the slices of RestoreV2's "10 4 0,5:0,4" (full sizes, then start,size)."""
    return tuple(
        slice(None)
        if part == "-"
        else slice(int(part.split(",")[0]), sum(map(int, part.split(","))))
        for part in piece.split(" ")[-1].split(":")
    )
