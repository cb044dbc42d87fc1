"""One model compressed to several budgets."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfapprox.report.report import Report
from tfapprox.selection.problem import CostKind


@dataclasses.dataclass(frozen=True)
class SweepPoint:
    """What became of one ratio.

    Attributes:
      ratio: share that was to be kept.
      report: None when there is no result.
      failure: why there is none, or "".
      wrong: whether the failure is that of a verification, so a fault of the result.
      resumed: whether it was there already, from an earlier run.
    """

    ratio: float
    report: Report | None
    failure: str = ""
    wrong: bool = False
    resumed: bool = False


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All ratios, in ascending order.

    Attributes:
      source: the original.
      destination: directory with one SavedModel for each ratio, or None when nothing
        was kept.
      kind: what the ratios are shares of.
      points: one for each ratio.
    """

    source: str
    destination: str | None
    kind: CostKind
    points: tuple[SweepPoint, ...]

    @property
    def reports(self) -> list[tuple[SweepPoint, Report]]:
        """The ratios that worked."""
        return [(point, point.report) for point in self.points if point.report is not None]

    def to_json(self) -> dict[str, Any]:
        """Returns what `json.dumps` takes: each ratio with its whole report."""
        return {
            "source": self.source,
            "destination": self.destination,
            "kind": self.kind,
            "points": [_point_to_json(point) for point in self.points],
        }


def ratio_name(ratio: float) -> str:
    """Returns e.g. keep_0.3."""
    return f"keep_{ratio:g}"


def _point_to_json(point: SweepPoint) -> Mapping[str, Any]:
    return {
        "ratio": point.ratio,
        "failure": point.failure,
        "wrong": point.wrong,
        "resumed": point.resumed,
        "report": point.report and point.report.to_json(),
    }
