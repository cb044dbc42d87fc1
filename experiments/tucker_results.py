"""What trainings that were decomposed on the way came to: rows, a table, curves."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tfapprox.training.trade_off import TradeOff, spread_of, with_spread


@dataclasses.dataclass(frozen=True)
class Row:
    """One training, or a mean over seeds (then `seed` is how many).

    Attributes:
      valid, test: accuracy in percent, of the last epoch as in the paper.
      spread: standard deviation of `test` over seeds, None for a single one.
      params, macs: while decomposed; of the dense model where it never is.
      params_ratio, macs_ratio: to the dense model's.
      dense_seconds, seconds: processor seconds of an epoch's training steps, medians
        before the switch and while decomposed, without the first of each, which
        compiles; 0 where there are none.
      total_seconds: processor seconds of training, all epochs.
    """

    method: str
    seed: int
    valid: float
    test: float
    spread: float | None
    params: int
    macs: int
    params_ratio: float
    macs_ratio: float
    dense_seconds: float
    seconds: float
    total_seconds: float


_MEANS = ("valid", "test", "params", "macs", "params_ratio", "macs_ratio")
_MEDIANS = ("dense_seconds", "seconds", "total_seconds")

TITLES = (
    "method",
    "test accuracy, % (std)",
    "parameters",
    "MACs, million",
    "CPU s an epoch, dense",
    "CPU s an epoch, after the switch",
    "CPU s in all",
)


def median_seconds(seconds: Sequence[float]) -> float:
    """Returns the median without the first, which compiles; 0 of none."""
    return float(np.median(seconds[1:] or seconds)) if seconds else 0.0


def summarize(rows: Sequence[Row]) -> list[Row]:
    """Returns one row a method, in order of first appearance; times are medians."""
    means = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        columns = {name: [getattr(row, name) for row in own] for name in _MEANS + _MEDIANS}
        mean = {name: float(np.mean(columns[name])) for name in _MEANS}
        means.append(
            Row(
                method,
                len(own),
                mean["valid"],
                mean["test"],
                spread_of(np.array(columns["test"])),
                round(mean["params"]),
                round(mean["macs"]),
                mean["params_ratio"],
                mean["macs_ratio"],
                *(float(np.median(columns[name])) for name in _MEDIANS),
            )
        )
    return means


def cells(row: Row) -> tuple[str, ...]:
    """Returns what stands under TITLES."""
    return (
        row.method,
        with_spread(row.test, row.spread),
        f"{row.params:,}",
        f"{row.macs / 1e6:.1f}",
        f"{row.dense_seconds:.2f}" if row.dense_seconds else "",
        f"{row.seconds:.2f}" if row.seconds else "",
        f"{row.total_seconds:.1f}",
    )


def markdown(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [" | ".join(TITLES), " | ".join("---" for _ in TITLES)]
    lines += [" | ".join(cells(row)) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def trade_off(row: Row, keep: float, epochs: int) -> TradeOff:
    """Returns one training's row in the form that all compressions share."""
    dense = row.method == "original"
    return TradeOff(
        "dense" if dense else row.method,
        row.seed,
        1.0 if dense else keep,
        row.params,
        row.macs,
        row.params_ratio,
        row.macs_ratio,
        epochs,
        row.valid / 100,
        row.test / 100,
    )


def plot_curves(
    histories: Mapping[tuple[str, int], Mapping[str, Sequence[float]]],
    title: str,
    path: pathlib.Path,
) -> None:
    """Draws validation accuracy by epoch and by processor time, with bands over seeds.

    Args:
      histories: (method, seed) to History's values.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_epoch, by_time) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for method in dict.fromkeys(method for method, _ in histories):
        own = [history for (name, _), history in histories.items() if name == method]
        values = 100 * np.array([history["val_accuracy"] for history in own])
        times = np.array([np.cumsum(history["cpu_seconds"]) for history in own]).mean(0)
        for axes, x in ((by_epoch, np.arange(1, len(times) + 1)), (by_time, times)):
            (line,) = axes.plot(x, values.mean(0), marker=".", label=method)
            axes.fill_between(x, values.min(0), values.max(0), alpha=0.2, color=line.get_color())
    by_epoch.set(xlabel="epoch", ylabel="validation accuracy, %", title=title)
    by_time.set(xlabel="processor seconds of training")
    by_epoch.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
