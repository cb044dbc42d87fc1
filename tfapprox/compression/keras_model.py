"""Compresses a Keras model in memory."""

import hashlib
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np

from tfapprox.compression.calibrating import Calibration, calibrate, keras_target
from tfapprox.compression.scoring import score_both
from tfapprox.compression.steps import Clock, decide, model_size, require_passed
from tfapprox.config import CompressionConfig, check_config
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.fitting import make_score
from tfapprox.planning import cost_after
from tfapprox.progress import Progress, no_progress
from tfapprox.report.environment import collect_environment, peak_memory_bytes
from tfapprox.report.report import Report
from tfapprox.report.spectra import collect_spectra
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import Plan
from tfapprox.rewriters.plan_remarks import plan_remarks
from tfapprox.training.distillation_config import DistillationConfig, RefinedBlock

_COMPARED = 64  # examples of the calibration data that both models are run on


def compress_model(
    model: Any,
    config: CompressionConfig,
    *,
    plan: Plan | None = None,
    inputs: Any = None,
    calibration_data: Any = None,
    evaluate: Callable[[Any], float] | None = None,
    scores: str | PathLike[str] | None = None,
    refinement: DistillationConfig | None = None,
    distillation: DistillationConfig | None = None,
    work_dir: str | PathLike[str] | None = None,
    progress: Progress = no_progress,
) -> tuple[Any, Report]:
    """Returns a cheaper Keras model made of stock layers, and the report.

    With ft or pfp in the place of a decomposition, channels are removed: the layers stay
    the same, and get smaller.

    Args:
      model: Sequential or Functional, of Keras 3 or tf_keras; it stays as it is.
      config: see `compress_saved_model`.
      plan: follow this one instead of making one.
      inputs: what `model(inputs)` takes, to compare both models on, and for pfp to judge
        channels by; the first of `calibration_data` when None, or made up.
      calibration_data: what to fit the layers to, as `config.calibration` says: arrays as
        `model(inputs)` takes them, a function that returns batches, or an iterable of
        batches, such as a tf.data.Dataset; inputs alone, without labels.
      evaluate, scores: see `compress_saved_model`; here evaluate takes a Keras model.
      refinement: train the new layers block by block, each for these steps, to give what
        the same part of the original does on those data.
      distillation: then train them all to give the original's outputs on those data.
      work_dir: keeps the training's state; a killed call that is made again goes on there.
      progress: told of every step.

    Raises:
      UserError: the model's kind is not supported (a subclassed one: export it and
        compress the SavedModel; one that is still sampled: strip it), an infeasible budget,
        or nothing to replace.
      VerificationError: the new model is not what it should be.
    """
    from tfapprox.rewriters.keras_inspection import inspect_keras_model
    from tfapprox.rewriters.keras_model import rewrite_keras_model
    from tfapprox.rewriters.keras_probe import batches_of, check_batch, head_of
    from tfapprox.rewriters.keras_pruning import prune, pruning_of
    from tfapprox.rewriters.verify_keras import verify_keras_model
    from tfapprox.training.distill_keras_model import distill_keras_model
    from tfapprox.training.refine_keras_model import refine_keras_model

    check_config(config)
    if (refinement or distillation) is not None and calibration_data is None:
        raise UserError("refinement and distillation train on calibration data: give some")
    clock = Clock()
    with clock("reading"):
        inspection = inspect_keras_model(model)
    _require_stripped(model, inspection, config)
    calibration: Calibration | None = None
    if inputs is not None:
        check_batch(model, inputs, "inputs")
    if calibration_data is not None:
        check_batch(model, head_of(calibration_data, 1), "calibration_data")
        inputs = head_of(calibration_data, _COMPARED) if inputs is None else inputs
        if config.calibrates and not config.pruning:
            with clock("calibrating"):
                target = keras_target(model, inspection, calibration_data)
                calibration = calibrate(inspection, config, target, progress)
                inspection = calibration.weighted(inspection)
    score = None
    if evaluate is not None:
        score = make_score(
            inspection.sites,
            lambda built: evaluate(rewrite_keras_model(model, built) if built else model),
            scores,
            "" if calibration is None else _fitted_to(config, calibration_data),
        )
    if pruning_of(plan) if plan is not None else config.pruning:
        with clock("pruning"):
            plan, rewritten, after = prune(model, inspection, config, plan, inputs)
        spectra = SpectrumCache()
    else:
        plan, factorizations, spectra = decide(
            inspection, config, plan, clock, progress, score=score, calibration=calibration
        )
        after = cost_after(inspection, plan)
        with clock("writing"):
            rewritten = rewrite_keras_model(model, factorizations)
    refined: tuple[RefinedBlock, ...] = ()
    if refinement is not None:
        with clock("refining"):
            refined = refine_keras_model(
                rewritten, model, batches_of(calibration_data), refinement,
                work_dir=work_dir, progress=progress,
            )  # fmt: skip
    distilled = None
    if distillation is not None:
        with clock("distilling"):
            distilled = distill_keras_model(
                rewritten, model, batches_of(calibration_data), distillation,
                work_dir=work_dir, progress=progress,
            )  # fmt: skip
    with clock("verifying"):
        verification = require_passed(
            verify_keras_model(rewritten, model, inputs, seed=config.seed)
        )
    measured = None if evaluate is None else score_both(evaluate, model, rewritten)
    report = Report(
        source=model.name,
        destination=rewritten.name,
        plan=plan,
        before=model_size(inspection.cost),
        after=model_size(after),
        environment=collect_environment(seed=config.seed),
        verification=verification,
        spectra=collect_spectra(inspection, plan, spectra),
        notes=(
            *inspection.notes,
            *plan_remarks(plan),
            *(() if calibration is None else calibration.notes),
        ),
        seconds=clock.seconds,
        peak_memory_bytes=peak_memory_bytes(),
        scores=measured,
        distillation=distilled,
        refinement=refined,
    )
    return rewritten, report


def _require_stripped(model: Any, inspection: Inspection, config: CompressionConfig) -> None:
    from tfapprox.rewriters.keras_inspection import STILL_SAMPLED

    sampled = [kept.name for kept in inspection.kept if kept.reason == STILL_SAMPLED]
    if any(map(config.admits, sampled)):
        raise UserError(
            f"model {model.name!r} is still sampled ({sampled[0]}): strip it first, as in "
            "compress_model(strip(model), config), or exclude such layers; strip is in "
            "tfapprox.rewriters.approximate_training"
        )


def _fitted_to(config: CompressionConfig, data: Any) -> str:
    """Returns what candidates are fitted to, in a word that changes with it; see `ScoreCache`."""
    import tensorflow as tf

    from tfapprox.rewriters.keras_probe import head_of

    digest = hashlib.sha256()
    for array in tf.nest.flatten(head_of(data, _COMPARED)):
        array = np.asarray(array)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return f"{digest.hexdigest()[:16]} {'' if config.correct_bias else 'about zero'}"
