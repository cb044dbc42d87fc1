"""A sweep as a table: a row for each budget, a column for everything that was measured."""

from collections.abc import Callable
from functools import partial

from tfapprox.report import numbers
from tfapprox.report.report import Report
from tfapprox.report.sweep import Sweep

Cell = tuple[str, float]


def sweep_table(sweep: Sweep) -> tuple[list[str], dict[float, list[Cell]]]:
    """Returns the columns that were measured, and ratio -> (text, number) for each of them."""
    makers: dict[str, Callable[[Report], Cell | None]] = {
        "MACs": lambda r: _share(r.after.macs, r.before.macs),
        "Parameters": lambda r: _share(r.after.params, r.before.params),
        "On disk": lambda r: _share(r.after.disk_bytes, r.before.disk_bytes),
        **{f"Speed, batch {size}": partial(speed_cell, size) for size in batch_sizes(sweep)},
        score_name(sweep): _score,
        "Output error": error_cell,
        "Sites replaced": lambda r: (f"{r.replaced} of {len(r.plan.verdicts)}", r.replaced),
    }
    found = {
        name: {point.ratio: make(report) for point, report in sweep.reports}
        for name, make in makers.items()
    }
    columns = [name for name, cells in found.items() if any(cells.values())]
    empty = ("-", -1.0)
    return columns, {
        point.ratio: [found[name][point.ratio] or empty for name in columns]
        for point, _ in sweep.reports
    }


def score_name(sweep: Sweep) -> str:
    """Returns what the user's measure is called."""
    names = [r.scores.name.capitalize() for _, r in sweep.reports if r.scores is not None]
    return names[0] if names else "Score"


def _score(report: Report) -> Cell | None:
    scores = report.scores
    return None if scores is None else (numbers.score(scores.after), scores.after)


def _share(after: float, before: float) -> Cell:
    return numbers.share(after, before), after / before if before else -1.0


def batch_sizes(sweep: Sweep) -> list[int]:
    """Returns the batch sizes that were timed, ascending."""
    return sorted({latency.batch_size for _, report in sweep.reports for latency in report.latency})


def speed_cell(batch_size: int, report: Report) -> Cell | None:
    """Returns how many times faster the result is than the original."""
    ratios = [x.ratio for x in report.latency if x.batch_size == batch_size]
    return (f"{ratios[0]:.2f}x", ratios[0]) if ratios else None


def error_cell(report: Report) -> Cell | None:
    """Returns the largest relative error of an output."""
    if report.verification is None or report.verification.relative_error is None:
        return None
    error = report.verification.relative_error
    return numbers.error(error), error
