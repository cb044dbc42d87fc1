"""Runs a SavedModel with its sites under observation, in this process."""

import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfapprox.accounting.factorization import Factorization
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.observing import ObservedStage, Watch
from tfapprox.rewriters.saved_model.sites import KernelUses
from tfapprox.rewriters.saved_model.source import SavedModelSource
from tfapprox.rewriters.saved_model.stages import takes_offset
from tfapprox.rewriters.saved_model.writing import write_saved_model

# TensorFlow's compiler can't call Python.
_COMPILER_ATTRIBUTES = ("_XlaMustCompile", "_XlaCompile", "_XlaScope")


class SavedModelProbe:
    """A copy of the model in which every watched kernel comes from Python, call by call.

    The copy is an ordinary rewrite, so sites in nested functions, branches and loops are
    reached alike; it is written to a temporary folder and loaded once.
    """

    def __init__(
        self,
        source: SavedModelSource,
        sites: Collection[str],
        watch: Watch,
        tags: Sequence[str] = ("serve",),
    ):
        """Args:
        source: the opened model; its signature is run.
        sites: names of those to watch.
        watch: called in every execution of a site.
        tags: of the graph.
        """
        if source.signature is None:
            raise UserError(f"{source.files.path} has no signature to run calibration data through")
        self._folder = tempfile.mkdtemp(prefix="tfapprox-probe-")
        kernels = {k.name: k for k in source.kernels if not k.reason}
        stages = {
            name: ObservedStage(
                np.ascontiguousarray(kernels[name].first.kernel),
                site=name,
                watch=watch,
                adds=not offset_reason(kernels[name]),
            )
            for name in sites
        }
        try:
            path = Path(self._folder, "model")
            write_saved_model(source, {n: Factorization((s,)) for n, s in stages.items()}, path)
            _drop_compilation(path / "saved_model.pb")
            self._loaded = tf.saved_model.load(str(path), tags=list(tags))
        except BaseException:
            self.close()
            raise
        self._stages = stages
        self._function = self._loaded.signatures[source.signature]

    def run(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Runs the signature on {input key: array} and returns its outputs in order of keys."""
        outputs = self._function(**{key: tf.constant(value) for key, value in batch.items()})
        return [outputs[key].numpy() for key in sorted(outputs)]

    def close(self) -> None:
        """Deletes the copy's files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "SavedModelProbe":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def watch_reason(kernel: KernelUses) -> str:
    """Says why a site can't be calibrated, "" if it can."""
    if any(use.flipped for use in kernel.uses):
        return "its kernel is used transposed as well"
    return ""


def offset_reason(kernel: KernelUses) -> str:
    """Says why a site's output takes no correction of the bias, "" if it does."""
    for use in kernel.uses:
        node = use.instance.body.nodes[use.node]
        if use.flipped or not takes_offset(node, use.match):
            return f"{node.op} {use.node} has no place for a bias behind it"
    return ""


def _drop_compilation(path: Path) -> None:
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta in proto.meta_graphs:
        library = meta.graph_def.library.function
        nodes = [*meta.graph_def.node, *(n for f in library for n in f.node_def)]
        for holder in (*nodes, *library):
            for name in _COMPILER_ATTRIBUTES:
                holder.attr.pop(name, None)
    path.write_bytes(proto.SerializeToString())
