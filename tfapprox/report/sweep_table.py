"""A sweep as a table: a row for each budget, a column for everything that was measured."""

import statistics
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


def original_row(sweep: Sweep) -> list[Cell]:
    """Returns what the columns are shares of: the original's own size, time and score.

    The numbers beside the texts are in the columns' own terms, for sorting. Times are
    medians over the budgets, each of which has measured the original beside its result.
    """
    reports = [report for _, report in sweep.reports]
    size = reports[0].before
    scores = next((report.scores for report in reports if report.scores is not None), None)
    cells: dict[str, Cell] = {
        "MACs": (numbers.count(size.macs), 1.0),
        "Parameters": (numbers.count(size.params), 1.0),
        "On disk": (numbers.size(size.disk_bytes), 1.0),
        **{f"Speed, batch {n}": (_original_time(sweep, n), 1.0) for n in batch_sizes(sweep)},
        score_name(sweep): ("-", -1.0)
        if scores is None
        else (numbers.score(scores.before), scores.before),
        "Output error": ("-", 0.0),
        "Sites replaced": (f"0 of {len(reports[0].plan.verdicts)}", 0),
    }
    return [cells[name] for name in sweep_table(sweep)[0]]


def _original_time(sweep: Sweep, batch_size: int) -> str:
    times = [
        latency.original.p50
        for _, report in sweep.reports
        for latency in report.latency
        if latency.batch_size == batch_size
    ]
    return numbers.milliseconds(statistics.median(times))


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
