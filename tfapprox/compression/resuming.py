"""What an interrupted compression is known again by, and its plan, so that it goes on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfapprox.compression.job import Job
from tfapprox.config import CompressionConfig
from tfapprox.rewriters.plan import Plan
from tfapprox.serving.calibration_data import CalibrationData
from tfapprox.training.distillation_config import DistillationConfig

_FILE = "plan.json"
_ORIGINS = ("calibration_data", "refinement", "distillation")


def origins(
    config: CompressionConfig,
    data: CalibrationData | None,
    refinement: DistillationConfig | None = None,
    distillation: DistillationConfig | None = None,
) -> dict[str, Any]:
    """Returns what a plan's settings record beside the config: which data, which training.

    Data that models are only compared on change nothing in the result: they are not recorded.
    """
    fitted = data is not None and (config.calibrates or refinement or distillation)
    found: dict[str, Any] = {}
    if fitted and data is not None:
        found["calibration_data"] = data.digest
    if refinement is not None:
        found["refinement"] = dataclasses.asdict(refinement)
    if distillation is not None:
        found["distillation"] = dataclasses.asdict(distillation)
    return found


def difference(
    settings: Mapping[str, Any], config: CompressionConfig, origin: Mapping[str, Any]
) -> str:
    """Returns the first setting in which a recorded plan differs, "" if none does."""
    asked = config.to_json()
    usual = [k for k in ("metric", "calibration") if asked[k] is None]  # the plan spells them out
    wanted = {k: v for k, v in asked.items() if k not in usual}
    wanted |= {**dict.fromkeys(_ORIGINS), **origin}
    return next((k for k, v in wanted.items() if settings.get(k) != v), "")


def keep_plan(job: Job, plan: Plan) -> None:
    """Writes the plan where `kept_plan` finds it; nothing without a work_dir."""
    if job.work_dir is None:
        return
    job.work_dir.mkdir(parents=True, exist_ok=True)
    settings = {**plan.settings, "source": str(job.source.resolve())}
    partial = job.work_dir / f".{_FILE}.partial"
    partial.write_text(dataclasses.replace(plan, settings=settings).to_json())
    partial.replace(job.work_dir / _FILE)


def kept_plan(job: Job) -> Plan | None:
    """Returns the plan that was kept for the same model, data and settings, None if none was.

    Latencies are measured anew by every run, so a plan made again may be another one.
    """
    if job.work_dir is None or not (job.work_dir / _FILE).exists():
        return None
    plan = Plan.from_json((job.work_dir / _FILE).read_text(), str(job.work_dir / _FILE))
    origin = {
        "source": str(job.source.resolve()),
        **origins(job.config, job.calibration_data, job.refinement, job.distillation),
    }
    return None if difference(plan.settings, job.config, origin) else plan
