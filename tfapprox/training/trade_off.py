"""Accuracy against size: which model to take, one table, one plot."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class TradeOff:
    """One compressed model, trained and measured.

    Attributes:
      method: how it was compressed; "dense" for the original.
      seed: of the training.
      keep: the ratio that was asked for; 1 for the original.
      params, macs: of the whole model (MACs of its linear layers, for one example).
      params_ratio, macs_ratio: what remains of the original's.
      epoch: that was best on the validation set; 0 is before any retraining.
      valid, test: accuracies of that epoch, in [0, 1].
    """

    method: str
    seed: int
    keep: float
    params: int
    macs: int
    params_ratio: float
    macs_ratio: float
    epoch: int
    valid: float
    test: float

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def largest_compression(
    rows: Sequence[TradeOff], dense: TradeOff, drop: float, measure: str = "valid"
) -> TradeOff | None:
    """Returns the model of the smallest budget within an accuracy drop of the dense one, or None.

    Args:
      drop: in accuracy, so 0.005 is half a point.
      measure: "valid", so that the test set stays unseen by the choice, or "test".
    """
    near = [r for r in rows if getattr(r, measure) >= getattr(dense, measure) - drop]
    return min(near, key=lambda row: (row.keep, row.params), default=None)


TITLES = (
    "method", "keep", "seeds", "parameters", "parameters saved", "MACs saved",
    "test accuracy, % (std)", "against dense",
)  # fmt: skip


def table_cells(rows: Sequence[TradeOff]) -> list[tuple[str, ...]]:
    """Returns the cells under TITLES, a line for each method and ratio.

    They hold means and spreads over seeds. Several methods may be called dense and
    something: a method is compared with the one of its seed that shares its last words.
    """
    dense = {(_variant(r.method), r.seed): r.test for r in rows if _kind(r.method) == "dense"}
    lines: list[tuple[str, ...]] = []
    for group in _groups(rows).values():
        tests = 100 * np.array([row.test for row in group])
        own = [(row.test, dense.get((_variant(row.method), row.seed))) for row in group]
        drops = [100 * (test - whole) for test, whole in own if whole is not None]
        lines.append(
            (
                group[0].method,
                f"{group[0].keep:.3g}",
                str(len(group)),
                f"{np.mean([row.params for row in group]):,.0f}",
                f"{100 * (1 - np.mean([row.params_ratio for row in group])):.1f} %",
                f"{100 * (1 - np.mean([row.macs_ratio for row in group])):.1f} %",
                with_spread(tests.mean(), spread_of(tests)),
                f"{np.mean(drops):+.2f}" if drops else "",
            )
        )
    return lines


def _kind(method: str) -> str:
    return method.partition(" ")[0]


def _variant(method: str) -> str:
    return method.partition(" ")[2]


def markdown(rows: Sequence[TradeOff]) -> str:
    """Returns a table, a line for each method and ratio: means and spreads over seeds."""
    lines = [" | ".join(TITLES), " | ".join("---" for _ in TITLES)]
    lines += [" | ".join(cells) for cells in table_cells(rows)]
    return "".join(f"| {line} |\n" for line in lines)


def plot(rows: Sequence[TradeOff], title: str, path: pathlib.Path) -> None:
    """Draws test accuracy over saved parameters, and over saved MACs beside it.

    A band goes from least to most over seeds. Bars show the same at each ratio: where there is
    one only, a band has no width.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axes, cost, label in zip(panels, ("params", "macs"), ("parameters", "MACs"), strict=True):
        _draw(axes, rows, cost)
        axes.set(xlabel=f"{label} saved, %")
    panels[0].set(ylabel="test accuracy, %")
    panels[1].legend()
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw(axes: Any, rows: Sequence[TradeOff], cost: str) -> None:
    groups = _groups(rows)
    for method in dict.fromkeys(row.method for row in rows):
        own = [group for group in groups.values() if group[0].method == method]
        own.sort(key=lambda group: _saved(group, cost))
        x = [_saved(group, cost) for group in own]
        tests = [[100 * row.test for row in group] for group in own]
        means, least, most = (np.array([f(v) for v in tests]) for f in (np.mean, min, max))
        if _kind(method) == "dense":
            axes.axhline(means[0], color="grey", linestyle="--", label=method)
            axes.axhspan(least[0], most[0], alpha=0.1, color="grey")
            continue
        bars = axes.errorbar(x, means, (means - least, most - means), fmt="o-", capsize=3)
        bars.set_label(method)
        axes.fill_between(x, least, most, alpha=0.2, color=bars.lines[0].get_color())


def _groups(rows: Sequence[TradeOff]) -> Mapping[tuple[str, float], list[TradeOff]]:
    groups: dict[tuple[str, float], list[TradeOff]] = {}
    for row in rows:
        groups.setdefault((row.method, row.keep), []).append(row)
    return groups


def _saved(group: Sequence[TradeOff], cost: str) -> float:
    return float(100 * (1 - np.mean([getattr(row, f"{cost}_ratio") for row in group])))


def spread_of(values: np.ndarray) -> float | None:
    """Returns the standard deviation over seeds, None of a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def with_spread(mean: float, spread: float | None) -> str:
    """Returns e.g. "97.31 (0.25)", and the mean alone where there is no spread."""
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ({spread:.2f})"
