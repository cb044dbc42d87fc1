"""Trains several methods over several seeds; prints the paper's table and plots its curves."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from experiments.config import ExperimentConfig
from experiments.console import wide_console
from experiments.harness import Result, train
from experiments.task import Task
from tfapprox.training.trade_off import spread_of, with_spread


@dataclasses.dataclass(frozen=True)
class Row:
    """One method over all seeds.

    Attributes:
      test: mean on the test set (accuracy in percent, or perplexity).
      spread: standard deviation over seeds, None for a single one.
      compute_reduction: share of training MACs saved.
      speedup, cpu_speedup: exact over this method's seconds (CPU seconds) a step; nan
        when exact was not trained.
      kept_mib: layer inputs kept for the backward pass, MiB a step.
      peak_mib: peak memory of the process, MiB.
    """

    method: str
    seeds: int
    test: float
    spread: float | None
    compute_reduction: float
    speedup: float
    cpu_speedup: float
    kept_mib: float
    peak_mib: float


def run_experiment(task: Task, config: ExperimentConfig) -> list[Row]:
    """Trains every method with every seed, in turn, and writes what came of it.

    One training goes to model_dir itself; several go to model_dir/METHOD-SEED, with
    comparison.json, comparison.md and curves.png beside them.

    Raises:
      UserError: data are missing, or settings do not fit.
    """
    single = len(config.methods) == 1 and config.seeds == 1
    results = []
    for seed in range(config.seed, config.seed + config.seeds):
        for method in config.methods:
            name = "." if single else f"{method}-{seed}"
            results.append(train(task, config, method, seed, config.model_dir / name))
    rows = summarize(task, results)
    wide_console().print(_table(task, rows))
    if not single:
        _write(task, config, results, rows)
    return rows


def summarize(task: Task, results: Sequence[Result]) -> list[Row]:
    """Returns one row a method, in order of first appearance."""
    factor = 100 if task.measure == "accuracy" else 1
    methods = list(dict.fromkeys(result.method for result in results))
    rows = []
    for method in methods:
        own = [result for result in results if result.method == method]
        tests = factor * np.array([result.test for result in own])
        rows.append(
            Row(
                method,
                len(own),
                float(tests.mean()),
                spread_of(tests),
                own[0].compute_reduction,
                _speedup(results, method, "step_seconds"),
                _speedup(results, method, "step_cpu_seconds"),
                own[0].kept_bytes / 2**20,
                max(record["peak_memory_mib"] for r in own for record in r.history),
            )
        )
    return rows


def _speedup(results: Sequence[Result], method: str, clock: str) -> float:
    times = {
        name: [getattr(result, clock) for result in results if result.method == name]
        for name in ("exact", method)
    }
    if not times["exact"]:
        return float("nan")
    return float(np.median(times["exact"]) / np.median(times[method]))


def markdown(task: Task, rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [" | ".join(_titles(task)), " | ".join("---" for _ in _titles(task))]
    lines += [" | ".join(_cells(row)) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def _titles(task: Task) -> tuple[str, ...]:
    measure = "test accuracy, %" if task.measure == "accuracy" else "test perplexity"
    return (
        "method",
        "seeds",
        f"{measure} (std)",
        "compute reduction",
        "speed-up of a step",
        "in CPU time",
        "kept inputs, MiB",
        "peak memory, MiB",
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.method,
        str(row.seeds),
        with_spread(row.test, row.spread),
        f"{100 * row.compute_reduction:.2f} %",
        *("-" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in (row.speedup, row.cpu_speedup)),
        f"{row.kept_mib:.2f}",
        f"{row.peak_mib:.0f}",
    )


def _table(task: Task, rows: Sequence[Row]) -> Table:
    table = Table(title=task.name)
    for title in _titles(task):
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _write(
    task: Task, config: ExperimentConfig, results: Sequence[Result], rows: Sequence[Row]
) -> None:
    body = {
        "experiment": task.name,
        "config": config.to_json(),
        "rows": [dataclasses.asdict(row) for row in rows],
        "results": [result.to_json() for result in results],
    }
    folder = config.model_dir
    (folder / "comparison.json").write_text(json.dumps(body, indent=1))
    (folder / "comparison.md").write_text(markdown(task, rows))
    plot_curves(task, results, folder / "curves.png")


def plot_curves(task: Task, results: Sequence[Result], path: pathlib.Path) -> None:
    """Plots training loss and test measure by step, each method's mean and a band over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (losses, tests) = pyplot.subplots(1, 2, figsize=(9, 3.8))
    for method in dict.fromkeys(result.method for result in results):
        own = [r for r in results if r.method == method]
        _draw(losses, method, [r.segments for r in own], "train_loss", "-")
        _draw(tests, method, [r.history for r in own], f"test_{task.measure}", "o-")
    losses.set(xlabel="step", ylabel="training loss", title=task.name)
    tests.set(xlabel="step", ylabel=f"test {task.measure}")
    losses.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw(axes: Any, method: str, runs: Sequence[Any], name: str, style: str) -> None:
    steps = np.cumsum([record["steps"] for record in runs[0]])
    values = np.array([[record[name] for record in run] for run in runs])
    (line,) = axes.plot(steps, values.mean(0), style, markersize=3, label=method)
    axes.fill_between(steps, values.min(0), values.max(0), alpha=0.2, color=line.get_color())
