"""Compresses a Keras model in memory."""

from collections.abc import Callable
from os import PathLike
from typing import Any

from tfapprox.compression.scoring import make_score, score_both
from tfapprox.compression.steps import Clock, decide, model_size, require_passed
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.planning import Progress, cost_after, no_progress
from tfapprox.report.environment import collect_environment, peak_memory_bytes
from tfapprox.report.report import Report
from tfapprox.report.spectra import collect_spectra
from tfapprox.rewriters.plan import Plan


def compress_model(
    model: Any,
    config: CompressionConfig,
    *,
    plan: Plan | None = None,
    inputs: Any = None,
    evaluate: Callable[[Any], float] | None = None,
    scores: str | PathLike[str] | None = None,
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
        channels by; made up when None.
      evaluate, scores: see `compress_saved_model`; here evaluate takes a Keras model.
      progress: told of every step.

    Raises:
      UserError: the model's kind is not supported (a subclassed one: export it and
        compress the SavedModel), an infeasible budget, or nothing to replace.
      VerificationError: the new model is not what it should be.
    """
    from tfapprox.rewriters.keras_inspection import inspect_keras_model
    from tfapprox.rewriters.keras_model import rewrite_keras_model
    from tfapprox.rewriters.keras_pruning import prune, pruning_of
    from tfapprox.rewriters.verify_keras import verify_keras_model

    clock = Clock()
    with clock("reading"):
        inspection = inspect_keras_model(model)
    score = None
    if evaluate is not None:
        score = make_score(
            inspection.sites,
            lambda built: evaluate(rewrite_keras_model(model, built) if built else model),
            scores,
        )
    if pruning_of(plan) if plan is not None else config.pruning:
        with clock("pruning"):
            plan, rewritten, after = prune(model, inspection, config, plan, inputs)
        spectra = SpectrumCache()
    else:
        plan, factorizations, spectra = decide(
            inspection, config, plan, clock, progress, score=score
        )
        after = cost_after(inspection, plan)
        with clock("writing"):
            rewritten = rewrite_keras_model(model, factorizations)
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
        notes=inspection.notes,
        seconds=clock.seconds,
        peak_memory_bytes=peak_memory_bytes(),
        scores=measured,
    )
    return rewritten, report
