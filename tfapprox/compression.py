"""The main job end to end: inspect, plan, rewrite, verify, measure, publish, report."""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from tfapprox import registry
from tfapprox.accounting.cost import Cost
from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError, VerificationError
from tfapprox.planning import (
    Progress,
    cost_after,
    factorize_plan,
    keep_fastest,
    make_plan,
    no_progress,
)
from tfapprox.report.environment import collect_environment, peak_memory_bytes
from tfapprox.report.report import ModelSize, Report
from tfapprox.report.spectra import collect_spectra
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import EXTRA, Plan
from tfapprox.rewriters.publish import check_target, staged
from tfapprox.selection.greedy import Score, ScoreCache
from tfapprox.selection.problem import Configuration
from tfapprox.serving.benchmark import LatencyRequest, measure_saved_models
from tfapprox.serving.inputs import Inputs, generate_inputs
from tfapprox.serving.latency import Latency
from tfapprox.serving.model_latency import Prediction, TimedModel, time_saved_model
from tfapprox.serving.signature import default_signature, read_signatures
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
        timed = _time_original(
            Path(source), inputs, tags, signature, config, threads, opened.inspection.sites,
            progress,
        )  # fmt: skip
    score = _score_saved_models(Path(source), opened, evaluate, scores)
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
      evaluate: returns the score, higher is better, of a SavedModel at a path: for the
        selector greedy, which calls it for many models with one site replaced.
      scores: JSON file that remembers what `evaluate` returned.
      progress: told of every step.

    Raises:
      UserError: bad source, destination, plan or inputs, an infeasible budget,
        nothing to replace, or no result that is faster where the config asks for one.
      VerificationError: the result, read back, is not what it should be.
    """
    job = _Job(
        Path(source), Path(destination), config, tuple(tags), signature, inputs, warmup,
        overwrite, tuple(batch_sizes), threads, evaluate, scores,
    )  # fmt: skip
    clock = _Clock()
    notes: list[str] = []
    while True:
        try:
            return _attempt(job, plan, notes, clock, progress)
        except _SlowerError as slower:
            plan, note = _with_fewer_sites(slower)
            notes.append(note)


@dataclasses.dataclass(frozen=True)
class _Job:
    """The arguments of `compress_saved_model` but its plan and progress."""

    source: Path
    destination: Path
    config: CompressionConfig
    tags: tuple[str, ...]
    signature: str | None
    inputs: Inputs | None
    warmup: Inputs | None
    overwrite: bool
    batch_sizes: tuple[int, ...]
    threads: int | None
    evaluate: Callable[[str], float] | None
    scores: ModelPath | None

    @property
    def measured_sizes(self) -> tuple[int, ...]:
        own = {self.config.batch_size} if self.config.measures_latency else set()
        return tuple(sorted({*self.batch_sizes, *own}))


class _SlowerError(Exception):
    """The result is slower than the original, which the config does not allow."""

    def __init__(self, plan: Plan, latency: Latency):
        super().__init__(plan, latency)
        self.plan, self.latency = plan, latency


def _attempt(
    job: _Job, plan: Plan | None, notes: Sequence[str], clock: "_Clock", progress: Progress
) -> Report:
    """Compresses once; whatever goes wrong, nothing is left behind.

    Raises:
      _SlowerError: the result was measured, and is slower than the config allows.
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
            timed = _time_original(job.source, job.inputs, job.tags, job.signature, config,
                                   job.threads, inspection.sites, progress)  # fmt: skip
    score = _score_saved_models(job.source, opened, job.evaluate, job.scores)
    plan, factorizations, spectra = _decide(inspection, config, plan, clock, progress, timed, score)
    with staged(job.destination) as staging:
        with clock("writing"):
            progress("writing", 0, 0)
            write_saved_model(opened, factorizations, str(staging))
            if job.warmup is not None:
                write_warmup(staging, job.warmup, job.signature, job.tags)
        before = _size(inspection.cost, _disk_bytes(job.source))
        after = _size(cost_after(inspection, plan), _disk_bytes(staging))
        curves, remarks = collect_spectra(inspection, plan, spectra), inspection.notes
        # TensorFlow is to load both models now: give it the memory back.
        del opened, inspection, factorizations, spectra, score
        with clock("verifying"):
            verification = _verify(job.source, staging, job.inputs, job.tags, job.signature,
                                   config.seed, progress)  # fmt: skip
        with clock("measuring"):
            latency = _measure(job, staging, progress)
        if config.measures_latency:
            notes = [*notes, *_check_latency(job, plan, latency)]
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
        )
        _leave_traces(staging, report)
    return report


def _shapes(inputs: Inputs | None) -> dict[str, tuple[int, ...]]:
    return {key: value.shape for key, value in (inputs or {}).items()}


def _time_original(
    source: Path,
    inputs: Inputs | None,
    tags: Sequence[str],
    signature: str | None,
    config: CompressionConfig,
    threads: int | None,
    sites: Sequence[Site],
    progress: Progress,
) -> TimedModel:
    progress("timing the original", 0, 0)
    name, feed = _feed(source, inputs, tags, signature, config.batch_size, config.seed)
    request = LatencyRequest(
        str(source), str(source), name, (config.batch_size,), tuple(tags), threads
    )
    return time_saved_model(request, feed, [site for site in sites if config.admits(site.name)])


def _score_saved_models(
    source: Path, opened: Any, evaluate: Callable[[str], float] | None, scores: ModelPath | None
) -> Score | None:
    """Returns a function that writes a SavedModel with one site replaced and evaluates it."""
    from tfapprox.rewriters.saved_model import write_saved_model

    if evaluate is None:
        return None

    def evaluate_with(factorizations: dict[str, Factorization]) -> float:
        if not factorizations:
            return evaluate(str(source))
        with tempfile.TemporaryDirectory(prefix="tfapprox-score-") as folder:
            path = str(Path(folder, "model"))
            write_saved_model(opened, factorizations, path)
            return evaluate(path)

    return _make_score(opened.inspection.sites, evaluate_with, scores)


def _make_score(
    sites: Sequence[Site],
    evaluate_with: Callable[[dict[str, Factorization]], float],
    scores: ModelPath | None,
) -> Score:
    spectra = SpectrumCache()

    def score(site: Site | None, choice: Configuration | None) -> float:
        if site is None or choice is None:
            return evaluate_with({})
        method = registry.look_up("decomposition", choice.decomposition)
        return evaluate_with({site.name: method.factorize(site, choice, spectra)})

    return score if scores is None else ScoreCache(score, sites, Path(scores))


def _check_latency(job: _Job, plan: Plan, latencies: Sequence[Latency]) -> list[str]:
    """Returns how the prediction bore out; nothing if the plan came without one.

    Raises:
      _SlowerError: the result is slower than the original.
    """
    (latency,) = (x for x in latencies if x.batch_size == job.config.batch_size)
    if latency.ratio < 1:
        raise _SlowerError(plan, latency)
    if "latency" not in plan.settings:
        return []
    return [Prediction.from_json(plan.settings["latency"]).compare(latency)]


def _with_fewer_sites(slower: _SlowerError) -> tuple[Plan, str]:
    """Returns the better half of a plan that made the model slower, and a note on it.

    Raises:
      UserError: there is but one site left.
    """
    plan, latency = slower.plan, slower.latency
    figures = f"{latency.ratio:.2f}x at batch {latency.batch_size}"
    count = len(plan.choices)
    if count < 2:
        raise UserError(
            f"nothing was measured to be faster than the original ({figures} with one site "
            "replaced), so nothing was written: keep the original, or give a budget of MACs or "
            "parameters without --objective=latency"
        )
    note = (
        f"With {count} sites replaced the model was measured to be slower ({figures}): only "
        f"the {count // 2} that save most time are; the budget may be missed for it"
    )
    return keep_fastest(plan, count // 2), note


def compress_model(
    model: Any,
    config: CompressionConfig,
    *,
    plan: Plan | None = None,
    inputs: Any = None,
    evaluate: Callable[[Any], float] | None = None,
    scores: ModelPath | None = None,
    progress: Progress = no_progress,
) -> tuple[Any, Report]:
    """Returns a cheaper Keras model made of stock layers, and the report.

    Args:
      model: Sequential or Functional, of Keras 3 or tf_keras; it stays as it is.
      config: see `compress_saved_model`.
      plan: follow this one instead of making one.
      inputs: what `model(inputs)` takes, to compare both models on; made up when None.
      evaluate, scores: see `compress_saved_model`; here evaluate takes a Keras model.
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
    score = None
    if evaluate is not None:
        score = _make_score(
            inspection.sites,
            lambda built: evaluate(rewrite_keras_model(model, built) if built else model),
            scores,
        )
    plan, factorizations, spectra = _decide(inspection, config, plan, clock, progress, score=score)
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
    timed: TimedModel | None = None,
    score: Score | None = None,
) -> tuple[Plan, dict[str, Factorization], SpectrumCache]:
    """Returns the plan, made or given, the stages it asks for, and the spectra it took."""
    spectra = SpectrumCache()
    with clock("planning"):
        plan = plan or make_plan(inspection, config, spectra, progress, timed, score)
    with clock("factorizing"):
        plan, factorizations = factorize_plan(inspection, plan, spectra, progress)
        spectra.release()
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


def _measure(job: _Job, staging: Path, progress: Progress) -> tuple[Latency, ...]:
    sizes = job.measured_sizes
    if not sizes:
        return ()
    progress("measuring", 0, 0)
    name, feed = _feed(job.source, job.inputs, job.tags, job.signature, max(sizes), job.config.seed)
    request = LatencyRequest(str(job.source), str(staging), name, sizes, job.tags, job.threads)
    return measure_saved_models(request, feed)


def _feed(
    source: Path,
    inputs: Inputs | None,
    tags: Sequence[str],
    signature: str | None,
    batch_size: int,
    seed: int,
) -> tuple[str, Inputs]:
    """Returns the name of the signature to run, and what to feed it."""
    signatures = read_signatures(str(source), tags)
    name = signature or default_signature(signatures)
    return name, inputs or generate_inputs(signatures[name], batch_size, seed)


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
