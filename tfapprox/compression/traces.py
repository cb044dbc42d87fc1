"""What a compressed SavedModel carries of its compression, and its size without that."""

import json
from pathlib import Path

from tfapprox.report.report import Report
from tfapprox.rewriters.plan import EXTRA


def leave_traces(model: Path, report: Report) -> None:
    """Writes plan and report into the model's assets.extra."""
    folder = model / EXTRA
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(report.plan.to_json() + "\n")
    (folder / "report.json").write_text(json.dumps(report.to_json()) + "\n")


def disk_bytes(model: Path) -> int:
    """Returns the bytes of a SavedModel's files, but for what only tfapprox reads."""
    files = (path for path in model.rglob("*") if path.is_file())
    return sum(f.stat().st_size for f in files if not f.is_relative_to(model / EXTRA))
