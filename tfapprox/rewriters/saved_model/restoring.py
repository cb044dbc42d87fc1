"""Composes a compressed SavedModel's factors back into dense kernels."""

import dataclasses
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import tensorflow as tf

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.errors import UserError, VerificationError
from tfapprox.progress import Progress, no_progress
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.plan import EXTRA
from tfapprox.rewriters.publish import check_target, staged
from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.chain_folding import ComposingProvenance, fold
from tfapprox.rewriters.saved_model.files import SavedModelFiles
from tfapprox.rewriters.saved_model.generation import GENERATOR, codes_of
from tfapprox.rewriters.saved_model.matching import FORMS
from tfapprox.rewriters.saved_model.objects import StoredGraph
from tfapprox.rewriters.saved_model.other_uses import reject_other_uses
from tfapprox.rewriters.saved_model.provenance import Static, Value
from tfapprox.rewriters.saved_model.sites import KernelUses, SiteFinder, readable_name
from tfapprox.rewriters.saved_model.source import SavedModelSource
from tfapprox.rewriters.saved_model.stage_chains import Chain, find_chains
from tfapprox.rewriters.saved_model.substitution import RestoredNames, without_suffix
from tfapprox.rewriters.saved_model.tracing import Tracer
from tfapprox.rewriters.saved_model.writing import MetaGraph, Writer, write
from tfapprox.rewriters.verify import require_same_structure, verify_saved_model
from tfapprox.serving.inputs import Inputs

_TOLERANCE = {tf.float64: 1e-9, tf.float32: 1e-5}
_TOLERANCE_HALF = 2e-2
_Place = tuple[str, str]  # function (or "" for the main graph), node


@dataclasses.dataclass(frozen=True)
class Restoration:
    """What became of a model.

    Attributes:
      restored: names of the sites that are dense again.
      kept: name of a chain that stays factorized -> why.
      verification: of the result against the compressed model; None where neither was run.
    """

    restored: tuple[str, ...]
    kept: Mapping[str, str]
    verification: Verification | None

    def to_json(self) -> dict:
        return {
            "restored": list(self.restored),
            "kept": dict(self.kept),
            "verification": None if self.verification is None else self.verification.to_json(),
        }


def restore_saved_model(
    source: str | Path,
    destination: str | Path,
    *,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    inputs: Inputs | None = None,
    overwrite: bool = False,
    run: bool = True,
    progress: Progress = no_progress,
) -> Restoration:
    """Writes a compressed SavedModel with one dense kernel where it has a chain of stages.

    The graph has the original's shape again, rewrites of rewrites included; the kernels
    are what the factors compose to, so the outputs are the compressed model's.

    Args:
      source: directory that `compress_saved_model` wrote; it is only read.
      destination: directory to write, put in place once it is complete and verified.
      tags: of the graph.
      signature: that `inputs` are for; serving_default, or else the first.
      inputs: to compare both models on; made up when None.
      overwrite: replace a SavedModel that is at `destination`.
      run: False for a model that is not to be trusted: it is never run, and the result is
        compared by structure alone.
      progress: told of every step.

    Raises:
      UserError: bad source or destination, or no factorization in the source.
      VerificationError: the result, read back, does not do what the source does.
    """
    source, destination = Path(source), Path(destination)
    check_target(destination, source, overwrite)
    progress("reading the model", 0, 0)
    folded, kept = _open_folded(source, tags)
    restored = tuple(kernel.name for kernel in folded.kernels)
    if not restored:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(kept.items())[:3])
        raise UserError(
            f"{source} has nothing to restore: "
            + (reasons or "no chain of factors like those that tfapprox compress writes")
        )
    with staged(destination) as staging:
        progress("writing", 0, 0)
        dense = {
            kernel.name: Factorization((Stage(np.ascontiguousarray(kernel.first.kernel)),))
            for kernel in folded.kernels
        }
        write(RestoringWriter(RestoredNames(folded, dense)), staging)
        shutil.rmtree(staging / EXTRA, ignore_errors=True)
        if (staging / EXTRA.parent).is_dir() and not any((staging / EXTRA.parent).iterdir()):
            (staging / EXTRA.parent).rmdir()
        if not run:
            require_same_structure(str(staging), str(source), tags)
            return Restoration(restored, kept, None)
        # What sampling left out comes back, so the outputs change.
        limit = None if folded.sampled else _tolerance(folded.kernels)
        verification = verify_saved_model(
            str(staging), str(source), inputs,
            tags=tags, signature=signature, max_relative_error=limit, progress=progress,
        )  # fmt: skip
        if not verification.passed:
            raise VerificationError(
                "the restored model failed its verification, nothing was written: "
                + "; ".join(verification.failures)
            )
    return Restoration(
        restored, kept, dataclasses.replace(verification, candidate=str(destination))
    )


def _tolerance(kernels: Sequence[KernelUses]) -> float:
    """Returns the relative error that composing in the products' precision may cause."""
    nodes = [use.instance.body.nodes[use.node] for kernel in kernels for use in kernel.uses]
    types = {attribute(n, "Ta" if n.op == "BatchMatMulV3" else "T").type for n in nodes}
    types |= {tf.as_dtype(k.first.kernel.dtype).as_datatype_enum for k in kernels}
    return max(_TOLERANCE.get(tf.as_dtype(kind), _TOLERANCE_HALF) for kind in types)


def _open_folded(source: Path, tags: Sequence[str]) -> tuple["FoldedSource", dict[str, str]]:
    """Returns the model with every chain folded that can be written as one kernel.

    Folding shows which chains can't: they are left as they are, and the rest is folded
    anew from the files.
    """
    kept: dict[_Place, str] = {}
    while True:
        chains = _find_chains(source, tags, kept)
        folded = FoldedSource(SavedModelFiles(source, tags), chains)
        if not folded.rejected:
            return folded, {node: reason for (_, node), reason in kept.items()}
        kept.update(folded.rejected)


def _find_chains(
    source: Path, tags: Sequence[str], left_out: Mapping[_Place, str]
) -> dict[str, list[Chain]]:
    """Returns the chains of every body, by its name."""
    traced = SavedModelSource(SavedModelFiles(source, tags), {}, None, {})
    found: dict[str, list[Chain]] = {}
    for instance in traced.tracer.instances:
        body = instance.body
        if body.name not in found:
            statics = {r for r, value in instance.values.items() if isinstance(value, Static)}
            chains = find_chains(body, statics.__contains__)
            found[body.name] = [c for c in chains if (body.name, c.node) not in left_out]
    return found


class FoldedSource(SavedModelSource):
    """A SavedModel whose chains of stages are folded into dense operations.

    Attributes:
      kernels: the composed ones, all of which can be written.
      rejected: chain that can't be folded -> why; the source is of no use if there is one.
    """

    def __init__(self, files: SavedModelFiles, chains: Mapping[str, Sequence[Chain]]):
        self._chains: list[Chain] = []
        self._nodes: dict[str, list[str]] = defaultdict(list)
        self.rejected: dict[_Place, str] = {}
        graph = files.meta.graph_def
        for proto in (graph, *graph.library.function):
            name = "" if proto is graph else proto.signature.name
            start = len(self._chains)
            self._chains += chains.get(name, ())
            mine = list(enumerate(self._chains))[start:]
            self._nodes[name] = [chain.node for _, chain in mine]
            if mine:
                fold(proto, mine)
        super().__init__(files, {}, None, {})

    @property
    def sampled(self) -> bool:
        """Whether a chain used some columns and rows only."""
        return any(chain.sampled for chain in self._chains)

    def _trace(self) -> Tracer:
        self.provenance = ComposingProvenance(self._read_variable, self._chains)
        return super()._trace()

    def _find_kernels(self) -> list[KernelUses]:
        finder = _ComposedFinder(self.provenance, self.table)
        for instance in self.tracer.instances:
            body = instance.body
            for name in self._nodes[body.name]:
                kernels = instance.static_inputs.get(name, {}).values()
                channels = [k.value().shape[-2] for k in kernels if isinstance(k, Static)]
                finder.add(instance, name, (channels[0],) * 4 if channels else None)
            for name, values in instance.static_inputs.items():
                operand = values.get(1)
                if body.nodes[name].op in FORMS and _is_generated(operand):
                    finder.add(instance, name, (operand.value().shape[-2],) * 4)
        fetched = [
            tensor.name
            for signature in self.files.meta.signature_def.values()
            for tensor in signature.outputs.values()
        ]
        reject_other_uses(finder, self.tracer, self.live_main, fetched, self.table)
        for instance, name, reason in finder.refused.values():
            self.rejected[instance.body.name, name] = reason
        for kernel in (k for k in finder.kernels if k.reason):
            for use in kernel.uses:
                self.rejected[use.instance.body.name, use.node] = kernel.reason
        return finder.kernels


def _is_generated(value: Value | None) -> TypeGuard[Static]:
    return isinstance(value, Static) and codes_of(value) is not None


class _ComposedFinder(SiteFinder):
    """Takes every factor for a part of its kernel, however small, and names sites as before."""

    def significant_roots(self, source: Static, size: int) -> frozenset[str]:
        return source.roots

    def _name(self, roots: frozenset[str], node: str) -> str:
        variables = sorted(root for root in roots if root in self._table.variables)
        if not variables:
            return super()._name(roots, node)
        variables.sort(key=lambda root: self._table.variables[root].name == GENERATOR)
        name = self._table.variables[variables[0]].name
        return readable_name(without_suffix(name), without_suffix(variables[0]))


class RestoringWriter(Writer):
    """Gives the dense kernels the places among objects that the original ones had."""

    def objects(self, meta: MetaGraph, references: Mapping[int, str]) -> StoredGraph | None:
        """See the base class."""
        stored = super().objects(meta, references)
        if stored is None:
            return None
        factors = self._substitution.factors
        names = {factor.name for factor in factors}
        saved = meta.object_graph_def
        made = {i for i, n in enumerate(saved.nodes) if n.variable.name in names}
        keys = {self._substitution.key(i) for i, f in enumerate(factors) if f.stored}
        stored_made = {
            i
            for i, node in enumerate(stored.nodes)
            if any(a.checkpoint_key in keys for a in node.attributes)
        }
        for nodes, targets in ((saved.nodes, made), (stored.nodes, stored_made)):
            for node in nodes:
                _rename_children(node, targets)
        return stored


def _rename_children(node: Any, targets: set[int]) -> None:
    names = [child.local_name for child in node.children]
    for child in node.children:
        wanted = without_suffix(child.local_name)
        if child.node_id in targets and wanted not in names:
            names.append(wanted)
            child.local_name = wanted
