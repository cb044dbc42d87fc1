"""A sweep as one HTML page: what each budget costs, its Pareto fronts, and every report."""

from functools import partial
from pathlib import Path
from typing import Any

from tfapprox.report import numbers
from tfapprox.report.pareto import Axis, ParetoPlot, Sample, plot_pareto
from tfapprox.report.rendering import render, write
from tfapprox.report.report import Report
from tfapprox.report.sweep import Sweep, SweepPoint, ratio_name
from tfapprox.report.sweep_table import (
    Cell,
    batch_sizes,
    error_cell,
    original_row,
    score_name,
    speed_cell,
    sweep_table,
)
from tfapprox.report.views import card, score_mood, view_report

_KINDS = {"macs": "MACs", "params": "parameters", "bytes": "bytes", "latency": "latency"}
_MACS = Axis("MACs kept", lambda value: f"{100 * value:.0f} %")
_ERROR = Axis("Output error", lambda value: f"{value:.3g}")


def write_sweep_page(sweep: Sweep, path: str | Path) -> None:
    """Writes the page to `path`.

    Raises:
      UserError: Jinja2 is missing, or the file can't be written.
    """
    write(render_sweep_page(sweep), path)


def render_sweep_page(sweep: Sweep) -> str:
    """Returns the page; whatever comes from the model is escaped."""
    columns, cells = sweep_table(sweep)
    rows = [_row(point, cells) for point in sweep.points]
    return render(
        "sweep.html",
        sweep=sweep,
        summary=_summary(sweep),
        plots=_plots(sweep),
        columns=columns,
        original=original_row(sweep),
        rows=rows,
        failures=[row for row in rows if row["failure"]],
    )


def _row(point: SweepPoint, cells: dict[float, list[Cell]]) -> dict[str, Any]:
    name = ratio_name(point.ratio)
    return {
        "ratio": point.ratio,
        "anchor": name,
        "label": f"keep {point.ratio:g}",
        "cells": cells.get(point.ratio, []),
        "failure": point.failure,
        "view": None if point.report is None else view_report(point.report),
    }


def _summary(sweep: Sweep) -> list[dict[str, str]]:
    done = sweep.reports
    mood = "good" if len(done) == len(sweep.points) else "warn"
    met = f"{len(done)} of {len(sweep.points)}"
    cards = [card("Budgets met", met, f"shares of {_KINDS[sweep.kind]} to keep", mood)]
    good = [(point, r) for point, r in done if r.scores and score_mood(r) == "good"]
    if good:
        point, report = min(good, key=lambda pair: pair[1].after.macs)
        cards.append(
            card(
                f"Least MACs within a point of {score_name(sweep).lower()}",
                numbers.share(report.after.macs, report.before.macs),
                f"keep {point.ratio:g}: {_after(report)}",
                "good",
            )
        )
    timed = [(point, latency) for point, report in done for latency in report.latency]
    if timed:
        # What is faster beyond the noise comes before what only measured so once.
        point, best = max(timed, key=lambda pair: (pair[1].is_faster, pair[1].ratio))
        remark = f"keep {point.ratio:g}, batch {best.batch_size}"
        mood = "good" if best.is_faster else "warn"
        cards.append(card("Fastest", f"{best.ratio:.2f}x", remark, mood))
    point, report = min(done, key=lambda pair: pair[1].after.params)
    remark = f"keep {point.ratio:g}, {numbers.count(report.after.params)}"
    share = numbers.share(report.after.params, report.before.params)
    return [*cards, card("Fewest parameters", share, remark)]


def _after(report: Report) -> str:
    assert report.scores is not None
    return f"{numbers.score(report.scores.before)} → {numbers.score(report.scores.after)}"


def _plots(sweep: Sweep) -> list[ParetoPlot]:
    """Returns worth against MACs and against time; worth is the score, or else the error."""
    done = sweep.reports
    scored = all(report.scores is not None for _, report in done)
    name = score_name(sweep)
    value = Axis(name, numbers.score, high_is_good=True, from_zero=False) if scored else _ERROR

    def worth(report: Report) -> float | None:
        if scored and report.scores is not None:
            return report.scores.after
        cell = error_cell(report)
        return None if cell is None else cell[1]

    start = done[0][1].scores.before if scored and done[0][1].scores is not None else 0.0
    plots = []
    sizes = batch_sizes(sweep)
    costs = [(_MACS, _macs_kept)]
    if sizes:
        time = Axis(f"Time kept at batch {sizes[-1]}", _MACS.form)
        costs.append((time, partial(_time_kept, sizes[-1])))
    for axis, cost in costs:
        samples = [
            Sample(f"{point.ratio:g}", x, y)
            for point, report in done
            if (x := cost(report)) is not None and (y := worth(report)) is not None
        ]
        if samples:
            samples.append(Sample("original", 1.0, start, is_original=True))
            plots.append(plot_pareto(samples, axis, value))
    return plots


def _macs_kept(report: Report) -> float | None:
    return report.after.macs / report.before.macs


def _time_kept(batch_size: int, report: Report) -> float | None:
    """Returns compressed / original median time."""
    cell = speed_cell(batch_size, report)
    return None if cell is None else 1 / cell[1]
