"""The main job end to end: inspect, plan, rewrite, verify, measure, publish, report."""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.factorization import Factorization
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError, VerificationError
from tfapprox.planning import Progress, cost_after, factorize_plan, make_plan, no_progress
from tfapprox.report.environment import collect_environment, peak_memory_bytes
from tfapprox.report.report import ModelSize, Report
from tfapprox.report.spectra import collect_spectra
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import Plan
from tfapprox.rewriters.publish import check_target, staged
from tfapprox.serving.benchmark import LatencyRequest, measure_saved_models
from tfapprox.serving.inputs import Inputs, generate_inputs
from tfapprox.serving.latency import Latency
from tfapprox.serving.signature import default_signature, read_signatures
from tfapprox.serving.warmup import check_warmup_support, write_warmup

EXTRA = Path("assets.extra", "tfapprox")
"""Where a compressed SavedModel carries its plan and report; servers ignore it."""

ModelPath = str | PathLike[str]


def plan_saved_model(
    source: ModelPath,
    config: CompressionConfig,
    *,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Returns the plan that `compress_saved_model` would follow, and writes nothing.

    Raises:
      UserError: as `compress_saved_model`.
    """
    from tfapprox.rewriters.saved_model import open_saved_model

    progress("reading the model", 0, 0)
    opened = open_saved_model(str(source), tags, signature)
    return make_plan(opened.inspection, config, SpectrumCache(), progress)


def compress_saved_model(
    source: ModelPath,
    destination: ModelPath,
    config: CompressionConfig,
    *,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    inputs: Inputs | None = None,
    warmup: Inputs | None = None,
    plan: Plan | None = None,
    overwrite: bool = False,
    batch_sizes: Sequence[int] = (1, 8),
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Writes a cheaper SavedModel to `destination` and returns what became of it.

    The result is written beside its place, read back and run by both of TensorFlow's
    loaders, measured, and only then put in place, whole. `source` is only read.

    Args:
      source: SavedModel directory.
      destination: directory to write; the plan and the report travel in its
        assets.extra/tfapprox/.
      config: the budget and how to spend it; its budget is ignored with a `plan`.
      tags: of the graph to rewrite.
      signature: whose MACs and latency count; serving_default, or else the first.
      inputs: one array for each input key of the signature, to compare both models on;
        made up when None.
      warmup: what TF Serving replays before it lets requests in, in the form of
        `inputs`; a record that the source has is replaced, or else kept.
      plan: follow this one instead of making one.
      overwrite: replace a SavedModel that is at `destination`.
      batch_sizes: to measure latency at; none skips the measurement.
      threads: for TensorFlow's pools while measuring; its own choice when None.
      progress: told of every step.

    Raises:
      UserError: bad source, destination, plan or inputs, an infeasible budget, or
        nothing to replace.
      VerificationError: the result, read back, is not what it should be.
    """
    from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model

    source, destination = Path(source), Path(destination)
    check_target(destination, source, overwrite)
    if warmup is not None:
        check_warmup_support()
    clock = _Clock()
    with clock("reading"):
        progress("reading the model", 0, 0)
        opened = open_saved_model(str(source), tags, signature)
    inspection = opened.inspection
    plan, factorizations, spectra = _decide(inspection, config, plan, clock, progress)
    with staged(destination) as staging:
        with clock("writing"):
            progress("writing", 0, 0)
            write_saved_model(opened, factorizations, str(staging))
            if warmup is not None:
                write_warmup(staging, warmup, signature, tags)
        sizes = _disk_bytes(source), _disk_bytes(staging)
        notes = inspection.notes
        del opened, factorizations  # measuring starts with the memory given back
        with clock("verifying"):
            verification = _verify(source, staging, inputs, tags, signature, config.seed, progress)
        with clock("measuring"):
            latency = _measure(
                source,
                staging,
                inputs,
                tags,
                signature,
                batch_sizes,
                threads,
                config.seed,
                progress,
            )
        report = Report(
            source=str(source),
            destination=str(destination),
            plan=plan,
            before=_size(inspection.cost, sizes[0]),
            after=_size(cost_after(inspection, plan), sizes[1]),
            environment=collect_environment(threads, config.seed),
            verification=dataclasses.replace(verification, candidate=str(destination)),
            latency=latency,
            spectra=collect_spectra(inspection, plan, spectra),
            notes=notes,
            seconds=clock.seconds,
            peak_memory_bytes=peak_memory_bytes(),
        )
        _leave_traces(staging, report)
    return report


def compress_model(
    model: Any,
    config: CompressionConfig,
    *,
    plan: Plan | None = None,
    inputs: Any = None,
    progress: Progress = no_progress,
) -> tuple[Any, Report]:
    """Returns a cheaper Keras model made of stock layers, and the report.

    Args:
      model: Sequential or Functional, of Keras 3 or tf_keras; it stays as it is.
      config: see `compress_saved_model`.
      plan: follow this one instead of making one.
      inputs: what `model(inputs)` takes, to compare both models on; made up when None.
      progress: told of every step.

    Raises:
      UserError: the model's kind is not supported (a subclassed one: export it and
        compress the SavedModel), an infeasible budget, or nothing to replace.
      VerificationError: the new model is not what it should be.
    """
    from tfapprox.rewriters.keras_inspection import inspect_keras_model
    from tfapprox.rewriters.keras_model import rewrite_keras_model
    from tfapprox.rewriters.verify_keras import verify_keras_model

    clock = _Clock()
    with clock("reading"):
        inspection = inspect_keras_model(model)
    plan, factorizations, spectra = _decide(inspection, config, plan, clock, progress)
    with clock("writing"):
        rewritten = rewrite_keras_model(model, factorizations)
    with clock("verifying"):
        verification = _passed(verify_keras_model(rewritten, model, inputs, seed=config.seed))
    report = Report(
        source=model.name,
        destination=rewritten.name,
        plan=plan,
        before=_size(inspection.cost),
        after=_size(cost_after(inspection, plan)),
        environment=collect_environment(seed=config.seed),
        verification=verification,
        spectra=collect_spectra(inspection, plan, spectra),
        notes=inspection.notes,
        seconds=clock.seconds,
        peak_memory_bytes=peak_memory_bytes(),
    )
    return rewritten, report


class _Clock:
    """Adds up seconds by phase: `with clock("planning"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def _decide(
    inspection: Inspection,
    config: CompressionConfig,
    plan: Plan | None,
    clock: _Clock,
    progress: Progress,
) -> tuple[Plan, dict[str, Factorization], SpectrumCache]:
    """Returns the plan, made or given, the stages it asks for, and the spectra it took."""
    spectra = SpectrumCache()
    with clock("planning"):
        plan = plan or make_plan(inspection, config, spectra, progress)
    with clock("factorizing"):
        plan, factorizations = factorize_plan(inspection, plan, spectra, progress)
    if not factorizations:
        first = plan.verdicts[0]
        raise UserError(
            f"nothing to do: all {len(plan.verdicts)} sites are kept dense, "
            f"e.g. {first.site}: {first.reason}; --dry_run shows every reason"
        )
    return plan, factorizations, spectra


def _verify(
    source: Path,
    staging: Path,
    inputs: Inputs | None,
    tags: Sequence[str],
    signature: str | None,
    seed: int,
    progress: Progress,
) -> Verification:
    from tfapprox.rewriters.verify import verify_saved_model

    return _passed(
        verify_saved_model(
            str(staging), str(source), inputs,
            tags=tags, signature=signature, seed=seed, progress=progress,
        )
    )  # fmt: skip


def _measure(
    source: Path,
    staging: Path,
    inputs: Inputs | None,
    tags: Sequence[str],
    signature: str | None,
    batch_sizes: Sequence[int],
    threads: int | None,
    seed: int,
    progress: Progress,
) -> tuple[Latency, ...]:
    if not batch_sizes:
        return ()
    progress("measuring", 0, 0)
    signatures = read_signatures(str(source), tags)
    name = signature or default_signature(signatures)
    feed = inputs or generate_inputs(signatures[name], max(batch_sizes), seed)
    request = LatencyRequest(
        str(source), str(staging), name, tuple(batch_sizes), tuple(tags), threads
    )
    return measure_saved_models(request, feed)


def _passed(verification: Verification) -> Verification:
    if not verification.passed:
        raise VerificationError(
            "the rewritten model failed its verification, nothing was written: "
            + "; ".join(verification.failures)
        )
    return verification


def _size(cost: Cost, disk_bytes: int = 0) -> ModelSize:
    return ModelSize(cost.params, cost.macs, disk_bytes)


def _disk_bytes(model: Path) -> int:
    """Returns the bytes of a SavedModel's files, but for what only tfapprox reads."""
    files = (path for path in model.rglob("*") if path.is_file())
    return sum(f.stat().st_size for f in files if not f.is_relative_to(model / EXTRA))


def _leave_traces(model: Path, report: Report) -> None:
    folder = model / EXTRA
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(report.plan.to_json() + "\n")
    (folder / "report.json").write_text(json.dumps(report.to_json()) + "\n")
