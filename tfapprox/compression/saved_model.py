"""Compresses a SavedModel directory: plan, rewrite, verify, measure, publish, report."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

from tfapprox.compression.job import Job
from tfapprox.compression.scoring import score_both, score_saved_models
from tfapprox.compression.steps import Clock, decide, model_size, require_passed
from tfapprox.compression.timing import (
    SlowerError,
    check_latency,
    measure_result,
    time_original,
    with_fewer_sites,
)
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.planning import (
    Progress,
    cost_after,
    make_plan,
    no_progress,
)
from tfapprox.report.environment import collect_environment, peak_memory_bytes
from tfapprox.report.report import Report
from tfapprox.report.spectra import collect_spectra
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.plan import EXTRA, Plan
from tfapprox.rewriters.publish import check_target, staged
from tfapprox.serving.inputs import Inputs
from tfapprox.serving.warmup import check_warmup_support, write_warmup

ModelPath = str | PathLike[str]


def plan_saved_model(
    source: ModelPath,
    config: CompressionConfig,
    *,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    inputs: Inputs | None = None,
    threads: int | None = None,
    evaluate: Callable[[str], float] | None = None,
    scores: ModelPath | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Returns the plan that `compress_saved_model` would follow, and writes nothing.

    Args: see `compress_saved_model`; inputs settle the sizes that the signature leaves open.

    Raises:
      UserError: as `compress_saved_model`.
    """
    from tfapprox.rewriters.saved_model import open_saved_model

    progress("reading the model", 0, 0)
    opened = open_saved_model(str(source), tags, signature, _shapes(inputs))
    timed = None
    if config.measures_latency:
        timed = time_original(
            Path(source), inputs, tags, signature, config, threads, opened.inspection.sites,
            progress,
        )  # fmt: skip
    score = score_saved_models(Path(source), opened, evaluate, scores)
    return make_plan(opened.inspection, config, SpectrumCache(), progress, timed, score)


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
    evaluate: Callable[[str], float] | None = None,
    scores: ModelPath | None = None,
    spectra: SpectrumCache | None = None,
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
      evaluate: returns the score, higher is better, of a SavedModel at a path: the report
        has it before and after, under the function's name. The selector greedy calls it
        for many models with one site replaced.
      scores: JSON file that remembers what `evaluate` returned to that selector.
      spectra: what earlier calls for the same model have found; filled for later ones.
      progress: told of every step.

    Raises:
      UserError: bad source, destination, plan or inputs, an infeasible budget,
        nothing to replace, or no result that is faster where the config asks for one.
      VerificationError: the result, read back, is not what it should be.
    """
    job = Job(
        Path(source), Path(destination), config, tuple(tags), signature, inputs, warmup,
        overwrite, tuple(batch_sizes), threads, evaluate, scores,
    )  # fmt: skip
    clock = Clock()
    notes: list[str] = []
    while True:
        try:
            return _attempt(job, plan, notes, clock, spectra, progress)
        except SlowerError as slower:
            plan, note = with_fewer_sites(slower)
            notes.append(note)


def _attempt(
    job: Job,
    plan: Plan | None,
    notes: Sequence[str],
    clock: Clock,
    spectra: SpectrumCache | None,
    progress: Progress,
) -> Report:
    """Compresses once; whatever goes wrong, nothing is left behind.

    Raises:
      SlowerError: the result was measured, and is slower than the config allows.
    """
    from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model

    check_target(job.destination, job.source, job.overwrite)
    if job.warmup is not None:
        check_warmup_support()
    with clock("reading"):
        progress("reading the model", 0, 0)
        opened = open_saved_model(str(job.source), job.tags, job.signature, _shapes(job.inputs))
    inspection, config, timed = opened.inspection, job.config, None
    if plan is None and config.measures_latency:
        with clock("timing"):
            timed = time_original(job.source, job.inputs, job.tags, job.signature, config,
                                   job.threads, inspection.sites, progress)  # fmt: skip
    score = score_saved_models(job.source, opened, job.evaluate, job.scores)
    plan, factorizations, spectra = decide(
        inspection, config, plan, clock, progress, timed, score, spectra
    )
    with staged(job.destination) as staging:
        with clock("writing"):
            progress("writing", 0, 0)
            write_saved_model(opened, factorizations, str(staging))
            if job.warmup is not None:
                write_warmup(staging, job.warmup, job.signature, job.tags)
        before = model_size(inspection.cost, _disk_bytes(job.source))
        after = model_size(cost_after(inspection, plan), _disk_bytes(staging))
        curves, remarks = collect_spectra(inspection, plan, spectra), inspection.notes
        # TensorFlow is to load both models now: give it the memory back.
        del opened, inspection, factorizations, spectra, score
        with clock("verifying"):
            verification = _verify(job.source, staging, job.inputs, job.tags, job.signature,
                                   config.seed, progress)  # fmt: skip
        measured = None
        if job.evaluate is not None:
            with clock("evaluating"):
                measured = score_both(job.evaluate, str(job.source), str(staging))
        with clock("measuring"):
            latency = measure_result(job, staging, progress)
        if config.measures_latency:
            notes = [*notes, *check_latency(job, plan, latency)]
        report = Report(
            source=str(job.source),
            destination=str(job.destination),
            plan=plan,
            before=before,
            after=after,
            environment=collect_environment(job.threads, config.seed),
            verification=dataclasses.replace(verification, candidate=str(job.destination)),
            latency=latency,
            spectra=curves,
            notes=(*remarks, *notes),
            seconds=clock.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            scores=measured,
        )
        _leave_traces(staging, report)
    return report


def _shapes(inputs: Inputs | None) -> dict[str, tuple[int, ...]]:
    return {key: value.shape for key, value in (inputs or {}).items()}


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

    return require_passed(
        verify_saved_model(
            str(staging), str(source), inputs,
            tags=tags, signature=signature, seed=seed, progress=progress,
        )
    )  # fmt: skip


def _disk_bytes(model: Path) -> int:
    """Returns the bytes of a SavedModel's files, but for what only tfapprox reads."""
    files = (path for path in model.rglob("*") if path.is_file())
    return sum(f.stat().st_size for f in files if not f.is_relative_to(model / EXTRA))


def _leave_traces(model: Path, report: Report) -> None:
    folder = model / EXTRA
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(report.plan.to_json() + "\n")
    (folder / "report.json").write_text(json.dumps(report.to_json()) + "\n")
