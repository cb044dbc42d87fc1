"""The plan of a compression that was interrupted, so that it goes on with the same one."""

from pathlib import Path

from tfapprox.config import CompressionConfig
from tfapprox.rewriters.plan import Plan

_FILE = "plan.json"


def keep_plan(work_dir: Path | None, source: Path, plan: Plan) -> None:
    """Writes the plan where `kept_plan` finds it; nothing without a work_dir."""
    if work_dir is None:
        return
    work_dir.mkdir(parents=True, exist_ok=True)
    named = Plan(plan.verdicts, {**plan.settings, "source": str(source.resolve())}, plan.version)
    partial = work_dir / f".{_FILE}.partial"
    partial.write_text(named.to_json())
    partial.replace(work_dir / _FILE)


def kept_plan(work_dir: Path | None, source: Path, config: CompressionConfig) -> Plan | None:
    """Returns the plan that was kept for the same model and settings, None if there is none.

    Latencies are measured anew by every run, so a plan made again may be another one.
    """
    if work_dir is None or not (work_dir / _FILE).exists():
        return None
    plan = Plan.from_json((work_dir / _FILE).read_text(), str(work_dir / _FILE))
    wanted = {**config.to_json(), "source": str(source.resolve())}
    usual = [k for k in ("metric", "calibration") if wanted[k] is None]  # the plan spells them out
    same = all(plan.settings.get(k) == v for k, v in wanted.items() if k not in usual)
    return plan if same else None
