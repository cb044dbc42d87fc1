"""From a few measured rows of a candidate table to a latency for every row."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import scipy.optimize

from tfapprox.selection.problem import CandidateTable

# Vector registers hold 8 floats (16 with AVX-512): other ranks leave lanes empty.
_LANES = 8


@dataclasses.dataclass(frozen=True)
class RelativeTime:
    """The time of a chain of stages, in times of the dense operation it stands in for.

    Attributes:
      ratio: below 1 is faster.
      noise: half-width of the ratio's confidence interval, of about 95 %.
    """

    ratio: float
    noise: float


def rows_to_measure(table: CandidateTable, points: int) -> list[int]:
    """Returns the rows from which the other rows' latency is interpolated.

    Of every family (rows that differ in rank only; ranks that fill whole vector
    registers apart from the others) at most `points` rows, the one with the fewest MACs
    and the one with the most among them, and more of the cheap ones than of the dear
    ones. Rows that save no MACs are left out: they are taken to save no time.
    """
    return sorted(
        row for family in _families(table).values() for row in _spread(family, max(2, points))
    )


def add_latency(
    table: CandidateTable, dense: float, measured: Mapping[int, RelativeTime]
) -> CandidateTable:
    """Returns the table with a column for latency, in nanoseconds.

    Within a family, ratio and noise of the measured rows are made to rise with the
    MACs (the isotonic fit: rows that contradict each other meet at their mean), then
    interpolated linearly in the MACs. Rows that are not faster than the dense
    operation by more than the noise get the dense operation's time, so that no
    selector, of whatever budget, has a reason to take them.

    Args:
      table: of one site.
      dense: nanoseconds of the dense operation.
      measured: row -> time, at least for the rows of `rows_to_measure`; rows measured
        besides sharpen the picture.
    """
    macs = np.asarray(table.cost["macs"], np.float64)
    ratio = np.ones(len(table))
    for family in _families(table).values():
        known = [row for row in family if row in measured]
        work = macs[known]
        levels = scipy.optimize.isotonic_regression([measured[row].ratio for row in known]).x
        noise = np.interp(macs[family], work, [measured[row].noise for row in known])
        levels = np.interp(macs[family], work, levels)
        ratio[family] = np.where(levels + noise < 1, levels, 1.0)
    latency = np.maximum(1, np.round(dense * ratio)).astype(np.int64)
    whole = dataclasses.replace(table.dense, latency=round(dense))
    latency[ratio == 1] = whole.latency
    return dataclasses.replace(table, dense=whole, cost={**table.cost, "latency": latency})


def without_slow_rows(table: CandidateTable) -> CandidateTable:
    """Returns the rows of a measured table that are faster than the dense operation."""
    return table.take(np.flatnonzero(table.cost["latency"] < table.dense.latency).tolist())


def _spread(family: list[int], points: int) -> list[int]:
    """Returns rows of a family, closer to each other where they cost little."""
    share = np.linspace(0, 1, points) ** 1.5
    places = np.unique(np.round((len(family) - 1) * share).astype(int))
    return [family[place] for place in places]


def _families(table: CandidateTable) -> dict[tuple, list[int]]:
    """Returns the rows of each family that save MACs, by rising MACs."""
    macs = np.asarray(table.cost["macs"])
    families: dict[tuple, list[int]] = {}
    for row in np.argsort(macs, kind="stable"):
        if macs[row] >= table.dense.macs:
            break
        chosen = table.configurations[row]
        ranks = [size for name, size in chosen.settings.items() if name.startswith("rank")]
        others = [item for item in chosen.settings.items() if not item[0].startswith("rank")]
        aligned = all(rank % _LANES == 0 for rank in ranks)
        families.setdefault((chosen.decomposition, aligned, *others), []).append(int(row))
    return families
