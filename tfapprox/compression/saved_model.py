"""Compresses a SavedModel directory: plan, rewrite, verify, measure, publish, report."""

import dataclasses
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

from tfapprox.compression.calibrating import Calibration, calibrate, saved_model_target
from tfapprox.compression.job import Job
from tfapprox.compression.learning import fixed_note, train_factors
from tfapprox.compression.resuming import keep_plan, kept_plan, origins
from tfapprox.compression.scoring import fitted_to, score_both, score_saved_models
from tfapprox.compression.steps import Clock, decide, model_size
from tfapprox.compression.timing import (
    SlowerError,
    check_latency,
    measure_result,
    time_original,
    with_fewer_sites,
)
from tfapprox.compression.traces import disk_bytes, leave_traces
from tfapprox.compression.verifying import check_runs, verify_result
from tfapprox.config import CompressionConfig, check_config
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.planning import cost_after, make_plan
from tfapprox.progress import Progress, no_progress
from tfapprox.report.environment import collect_environment, peak_memory_bytes
from tfapprox.report.report import Report
from tfapprox.report.spectra import collect_spectra
from tfapprox.rewriters.plan import Plan
from tfapprox.rewriters.plan_remarks import plan_remarks
from tfapprox.rewriters.publish import check_target, staged
from tfapprox.rewriters.verify import NOT_RUN
from tfapprox.serving.calibration_data import CalibrationData, Source, open_calibration_data
from tfapprox.serving.cc_loader import find_signature
from tfapprox.serving.inputs import Inputs
from tfapprox.serving.signature import default_signature, read_signatures
from tfapprox.serving.warmup import check_warmup_support, write_warmup
from tfapprox.training.distillation_config import DistillationConfig

ModelPath = str | PathLike[str]

_COMPARED = 64  # examples of the calibration data that both models are run on


def plan_saved_model(
    source: ModelPath,
    config: CompressionConfig,
    *,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    inputs: Inputs | None = None,
    calibration_data: Source | None = None,
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

    check_config(config)
    _check_path(source)
    progress("reading the model", 0, 0)
    data = open_data(calibration_data, source, tags, signature)
    inputs = _or_head(inputs, data)
    opened = open_saved_model(str(source), tags, signature, _shapes(inputs))
    inspection, timed = opened.inspection, None
    if data is not None and config.calibrates:
        target = saved_model_target(opened, data, tags)
        inspection = calibrate(inspection, config, target, progress).weighted(inspection)
    if config.measures_latency:
        timed = time_original(
            Path(source), inputs, tags, signature, config, threads, inspection.sites,
            progress,
        )  # fmt: skip
    score = score_saved_models(
        Path(source), opened, inspection.sites, evaluate, scores, fitted_to(config, data)
    )
    plan = make_plan(inspection, config, SpectrumCache(), progress, timed, score)
    return dataclasses.replace(plan, settings={**plan.settings, **origins(config, data)})


def compress_saved_model(
    source: ModelPath,
    destination: ModelPath,
    config: CompressionConfig,
    *,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    inputs: Inputs | None = None,
    calibration_data: Source | None = None,
    warmup: Inputs | None = None,
    plan: Plan | None = None,
    overwrite: bool = False,
    batch_sizes: Sequence[int] = (1, 8),
    threads: int | None = None,
    evaluate: Callable[[str], float] | None = None,
    scores: ModelPath | None = None,
    spectra: SpectrumCache | None = None,
    run: bool = True,
    refinement: DistillationConfig | None = None,
    distillation: DistillationConfig | None = None,
    work_dir: ModelPath | None = None,
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
        the first of `calibration_data` when None, or made up.
      calibration_data: what to fit the sites to, as `config.calibration` says; in any
        form that `open_calibration_data` takes.
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
      run: False for a model that is not to be trusted: it is read, planned and written, but
        never run; so it is compared by structure alone, and nothing is measured.
      refinement: train the new factors block by block, each for these steps, to give what
        the same part of the original does on the calibration data.
      distillation: then train them all to give the original's outputs on those data.
      work_dir: keeps the plan and the training's state; a killed call that is made again
        goes on there.
      progress: told of every step.

    Raises:
      UserError: bad source, destination, plan, inputs or data, an infeasible budget,
        nothing to replace, or no result that is faster where the config asks for one.
      VerificationError: the result, read back, is not what it should be.
    """
    check_config(config)
    _check_path(source)
    if (refinement or distillation) is not None and calibration_data is None:
        raise UserError("refinement and distillation train on calibration data: give some")
    data = open_data(calibration_data, source, tags, signature)
    job = Job(
        Path(source), Path(destination), config, tuple(tags), signature, _or_head(inputs, data),
        warmup, overwrite, tuple(batch_sizes), threads, evaluate, scores, data,
        refinement, distillation, None if work_dir is None else Path(work_dir), run,
    )  # fmt: skip
    check_runs(job)
    plan = plan or kept_plan(job)
    clock = Clock()
    notes: list[str] = []
    while True:
        try:
            return _attempt(job, plan, notes, clock, spectra, progress)
        except SlowerError as slower:
            plan, note = with_fewer_sites(slower)
            notes.append(note)


def _check_path(source: object) -> None:
    if not isinstance(source, str | PathLike):
        raise UserError(
            f"source must be the directory of a SavedModel, got {type(source).__name__}; "
            "compress_model takes Keras models"
        )


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
    calibration: Calibration | None = None
    if job.calibration_data is not None and config.calibrates:
        with clock("calibrating"):
            target = saved_model_target(opened, job.calibration_data, job.tags)
            calibration = calibrate(inspection, config, target, progress)
            inspection = calibration.weighted(inspection)
            notes = [*notes, *calibration.notes]
    if plan is None and config.measures_latency:
        with clock("timing"):
            timed = time_original(job.source, job.inputs, job.tags, job.signature, config,
                                   job.threads, inspection.sites, progress)  # fmt: skip
    score = score_saved_models(
        job.source, opened, inspection.sites, job.evaluate, job.scores,
        fitted_to(config, job.calibration_data),
    )  # fmt: skip
    plan, factorizations, spectra = decide(
        inspection, config, plan, clock, progress, timed, score, spectra, calibration
    )
    origin = origins(config, job.calibration_data, job.refinement, job.distillation)
    plan = dataclasses.replace(plan, settings={**plan.settings, **origin})
    keep_plan(job, plan)
    with staged(job.destination) as staging:
        with clock("writing"):
            progress("writing", 0, 0)
            write_saved_model(opened, factorizations, str(staging))
            if job.warmup is not None:
                write_warmup(staging, job.warmup, job.signature, job.tags)
        before = model_size(inspection.cost, disk_bytes(job.source))
        after = model_size(cost_after(inspection, plan), disk_bytes(staging))
        notes = [*notes, *fixed_note(job, opened, factorizations)]
        curves = collect_spectra(inspection, plan, spectra)
        remarks = (*inspection.notes, *plan_remarks(plan))
        # TensorFlow is to load both models now: give it the memory back.
        del opened, inspection, factorizations, spectra, score, calibration
        refined, distilled = train_factors(job, staging, clock, progress)
        with clock("verifying"):
            verification = verify_result(job, staging, progress)
        measured = None
        if job.evaluate is not None:
            with clock("evaluating"):
                measured = score_both(job.evaluate, str(job.source), str(staging))
        with clock("measuring"):
            latency = measure_result(job, staging, progress) if job.run else ()
        if config.measures_latency:
            notes = [*notes, *check_latency(job, plan, latency)]
        report = Report(
            source=str(job.source),
            destination=str(job.destination),
            plan=plan,
            before=before,
            after=after,
            environment=collect_environment(job.threads, config.seed),
            verification=verification,
            latency=latency,
            spectra=curves,
            notes=(*remarks, *notes, *(() if job.run else (NOT_RUN,))),
            seconds=clock.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            scores=measured,
            distillation=distilled,
            refinement=refined,
        )
        leave_traces(staging, report)
    return report


def open_data(
    source: Source | None, model: ModelPath, tags: Sequence[str], signature: str | None
) -> CalibrationData | None:
    """Returns a stream of the data, which may be one already; None where there are none.

    Raises:
      UserError: no SavedModel or signature, or data that do not fit it.
    """
    if source is None or isinstance(source, CalibrationData):
        return source
    signatures = read_signatures(str(model), tags)
    name = signature or default_signature(signatures)
    return open_calibration_data(source, find_signature(signatures, name, str(model)))


def _or_head(inputs: Inputs | None, data: CalibrationData | None) -> Inputs | None:
    return data.head(_COMPARED) if inputs is None and data is not None else inputs


def _shapes(inputs: Inputs | None) -> dict[str, tuple[int, ...]]:
    return {key: value.shape for key, value in (inputs or {}).items()}
