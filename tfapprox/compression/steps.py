"""Steps that compressing a SavedModel and a Keras model share."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.factorization import Factorization
from tfapprox.compression.calibrating import Calibration, anchor, correct_biases
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError, VerificationError
from tfapprox.factorizing import factorize_plan
from tfapprox.planning import make_plan
from tfapprox.progress import Progress
from tfapprox.report.report import ModelSize
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import Plan
from tfapprox.selection.greedy import Score
from tfapprox.serving.model_latency import TimedModel


class Clock:
    """Adds up seconds by phase: `with clock("planning"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def decide(
    inspection: Inspection,
    config: CompressionConfig,
    plan: Plan | None,
    clock: Clock,
    progress: Progress,
    timed: TimedModel | None = None,
    score: Score | None = None,
    spectra: SpectrumCache | None = None,
    calibration: Calibration | None = None,
) -> tuple[Plan, dict[str, Factorization], SpectrumCache]:
    """Returns the plan, made or given, the stages it asks for, and the spectra it took.

    With a calibration, `inspection` is the weighted one.
    """
    spectra = SpectrumCache() if spectra is None else spectra
    with clock("planning"):
        plan = plan or make_plan(inspection, config, spectra, progress, timed, score)
    with clock("factorizing"):
        plan, factorizations = factorize_plan(inspection, plan, spectra, progress)
        spectra.release()
    if calibration is not None:
        plan, factorizations = _calibrated(
            inspection, plan, factorizations, calibration, config, clock, progress
        )
    if not factorizations:
        first = plan.verdicts[0]
        raise UserError(
            f"nothing to do: all {len(plan.verdicts)} sites are kept dense, "
            f"e.g. {first.site}: {first.reason}; --dry_run shows every reason"
        )
    return plan, factorizations, spectra


def _calibrated(
    inspection: Inspection,
    plan: Plan,
    factorizations: dict[str, Factorization],
    calibration: Calibration,
    config: CompressionConfig,
    clock: Clock,
    progress: Progress,
) -> tuple[Plan, dict[str, Factorization]]:
    """Returns the plan, which says how it was calibrated, and the stages with their offsets."""
    kind = config.calibration or "symmetric"
    settings = {**plan.settings, "calibration": kind, "correct_bias": config.correct_bias}
    factorizations = correct_biases(inspection, factorizations, calibration)
    plan = dataclasses.replace(plan, settings=settings)
    if kind in ("anchored", "rectified") and factorizations:
        with clock("anchoring"):
            return anchor(inspection, plan, factorizations, calibration, config, progress)
    return plan, factorizations


def require_passed(verification: Verification) -> Verification:
    if not verification.passed:
        raise VerificationError(
            "the rewritten model failed its verification, nothing was written: "
            + "; ".join(verification.failures)
        )
    return verification


def model_size(cost: Cost, disk_bytes: int = 0) -> ModelSize:
    return ModelSize(cost.params, cost.macs, disk_bytes)
