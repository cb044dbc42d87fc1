"""Writes a SavedModel anew around its replaced kernels, file by file."""

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfapprox.accounting.factorization import Factorization
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.body import Body
from tfapprox.rewriters.saved_model.checkpoint import write_checkpoint
from tfapprox.rewriters.saved_model.files import OBJECT_GRAPH_KEY
from tfapprox.rewriters.saved_model.main_graph import MainGraphWriter
from tfapprox.rewriters.saved_model.object_graphs import ObjectGraphsWriter
from tfapprox.rewriters.saved_model.objects import StoredGraph
from tfapprox.rewriters.saved_model.saver import find_side, restored_tensors
from tfapprox.rewriters.saved_model.source import SavedModelSource, explained
from tfapprox.rewriters.saved_model.substitution import Substitution

MetaGraph: TypeAlias = meta_graph_pb2.MetaGraphDef
Tensors: TypeAlias = list[tuple[str, Callable[[], np.ndarray]]]


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
        write(Writer(Substitution(source, replacements)), Path(directory))


def write(writer: "Writer", directory: Path) -> None:
    """Writes everything that a writer makes, and copies the files it leaves alone."""
    directory.mkdir(parents=True, exist_ok=True)
    proto, tensors = writer.result()
    files = writer.source.files
    for relative in files.other_files():
        (directory / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files.path / relative, directory / relative)
    (directory / "saved_model.pb").write_bytes(proto.SerializeToString())
    if tensors:
        write_checkpoint(directory / "variables" / "variables", tensors)
    if (files.path / "fingerprint.pb").is_file():
        write_fingerprint(directory)


def write_fingerprint(directory: Path) -> None:
    """Writes the fingerprint of the SavedModel in a directory."""
    from tensorflow.python.saved_model import fingerprinting_utils

    fingerprinting_utils.write_fingerprint(str(directory))


class Writer:
    """One rewrite from start to end."""

    def __init__(self, substitution: Substitution):
        self._substitution = substitution
        self.source, self._files = substitution.source, substitution.source.files
        self._meta = type(self._files.meta)()
        _copy_but_graph(self._files.meta, self._meta)

    def result(self) -> tuple[saved_model_pb2.SavedModel, Tensors]:
        """Returns the new SavedModel message and the tensors of its checkpoint."""
        self._check_other_graphs()
        graph = MainGraphWriter(self._substitution, self._meta)
        stored = self.objects(self._meta, graph.references)
        graph.write(stored)
        proto = saved_model_pb2.SavedModel(
            saved_model_schema_version=self._files.proto.saved_model_schema_version
        )
        for meta in self._files.proto.meta_graphs:
            proto.meta_graphs.append(self._meta if meta is self._files.meta else meta)
        return proto, self._tensors(stored)

    def objects(self, meta: MetaGraph, references: Mapping[int, str]) -> StoredGraph | None:
        """Rewrites both object graphs; returns the checkpoint's, None if there is none."""
        saved = meta.object_graph_def
        if not saved.nodes:
            return None
        return ObjectGraphsWriter(self._substitution, saved, references).write()

    def _check_other_graphs(self) -> None:
        """Other MetaGraphs of the SavedModel stay as they are, if they can."""
        forgotten = self._substitution.forgotten
        for meta in self._files.proto.meta_graphs:
            if meta is self._files.meta:
                continue
            functions = {f.signature.name: Body(f) for f in meta.graph_def.library.function}
            name = meta.saver_def.restore_op_name
            side = find_side(meta, Body(meta.graph_def), functions, name)
            shared = [t.key for t in restored_tensors(side) if t.key in forgotten]
            if shared:
                tags = ",".join(meta.meta_info_def.tags)
                raise UserError(
                    f"variable {shared[0]!r} is shared with the graph tagged {tags!r} of the same "
                    "SavedModel: export the graph to serve by itself, or --exclude that variable"
                )

    def _tensors(self, stored: StoredGraph | None) -> Tensors:
        substitution, variables = self._substitution, self.source.table.variables
        kept = {k.partition("|")[0] for k in variables if k not in substitution.forgotten}
        forgotten = {key.partition("|")[0] for key in substitution.forgotten} - kept
        tensors: Tensors = [
            (name, functools.partial(self._files.tensor, name))
            for name in sorted(self._files.tensor_shapes)
            if name not in forgotten and name != OBJECT_GRAPH_KEY
        ]
        for index, factor in enumerate(substitution.factors):
            if factor.stored:
                read = functools.partial(np.asarray, factor.value)
                tensors.append((substitution.key(index), read))
        if stored is not None and OBJECT_GRAPH_KEY in self._files.tensor_shapes:
            content = np.array(stored.SerializeToString(), object)
            tensors.append((OBJECT_GRAPH_KEY, lambda: content))
        return tensors


def _copy_but_graph(old: MetaGraph, new: MetaGraph) -> None:
    """Copies a MetaGraphDef without its graph, which is most of it."""
    for field, value in old.ListFields():
        if field.name == "graph_def":
            continue
        # By the container: descriptors say it differently in old and new protobuf.
        if hasattr(value, "keys"):
            for key in value:
                getattr(new, field.name)[key].CopyFrom(value[key])
        elif hasattr(value, "extend"):
            getattr(new, field.name).extend(value)
        else:
            getattr(new, field.name).CopyFrom(value)
