"""ALDS as published: alternating between ranks and subspaces, from random starts."""

import dataclasses

import numpy as np

from tfapprox.errors import InfeasibleBudgetError
from tfapprox.selection.alds import select_alds
from tfapprox.selection.error_bound import select_error_bound
from tfapprox.selection.frontier import feasible_frontiers
from tfapprox.selection.problem import CandidateTable, CostKind, Problem, Selection

_SIZES = ("rank", "code_size")
_SWEEPS = 50  # a guard: every sweep lowers the error or is the last


@dataclasses.dataclass(frozen=True)
class AlternatingAldsSelector:
    """Local search for the rows with the smallest largest error.

    The rows of a site fall into families that differ in rank only (with the SVD: one
    for each scheme and number k of slices). From random families it repeats, until
    the error falls no more:

      OptimalRanks:     families held, the one error for all sites that meets the budget;
      OptimalSubspaces: each site's cost held, the family with the least error for it.

    It is kept for comparison: `select_alds` finds the optimum that this approaches.

    Attributes:
      starts: random starts; the best result is kept.
      seed: of the starts.

    References:
      Liebenwein et al. 2021, Algorithm 1 and supplement, Section A.5. We depart in one
      point: where no start meets the budget, the families with the lowest floors
      start once more, so that what can be met is met.
    """

    starts: int = 15
    seed: int = 0

    def __call__(self, problem: Problem) -> Selection:
        """Returns the best selection of all starts.

        Raises:
          InfeasibleBudgetError: the budget can't be met; the message names the floor.
        """
        if problem.budget.max_error is not None:
            return select_error_bound(problem)
        families = [_families(table) for table in problem.tables]
        generator = np.random.default_rng(self.seed)
        starts = [[int(generator.integers(len(f))) for f in families] for _ in range(self.starts)]
        runs = [_search(problem, families, start) for start in starts]
        found = [run for run in runs if run is not None]
        if not found:
            feasible_frontiers(problem)  # raises where no selection meets the budget
            lowest = [_lowest(f, problem.budget.kind) for f in families]
            found = [run for run in [_search(problem, families, lowest)] if run is not None]
        return min(found, key=lambda selection: selection.objective)


@dataclasses.dataclass(frozen=True, eq=False)
class _Family:
    """Rows of one site's table that differ in rank only.

    Attributes:
      rows: their places in the whole table.
      table: these rows alone.
    """

    rows: list[int]
    table: CandidateTable

    def least_error(self, kind: CostKind, limit: float) -> float:
        """Returns the least error of a row that costs at most `limit`."""
        return float(np.min(self.table.error[self.table.cost[kind] <= limit], initial=np.inf))


def _families(table: CandidateTable) -> list[_Family]:
    """Returns the families of a site, or one without rows if it has no candidates."""
    groups: dict[tuple, list[int]] = {}
    for index, row in enumerate(table.configurations):
        shared = [item for item in row.settings.items() if not item[0].startswith(_SIZES)]
        groups.setdefault((row.decomposition, *shared), []).append(index)
    return [_Family(rows, table.take(rows)) for rows in list(groups.values()) or [[]]]


def _lowest(families: list[_Family], kind: CostKind) -> int:
    """Returns the family with the cheapest row of a site."""
    floors = [min(f.table.cost[kind], default=np.inf) for f in families]
    return int(np.argmin(floors))


def _search(problem: Problem, families: list[list[_Family]], start: list[int]) -> Selection | None:
    """Returns the local optimum reached from one family per site; None if over the budget."""
    kind = problem.budget.kind
    chosen, best = start, None
    for _ in range(_SWEEPS):
        current = [f[index] for f, index in zip(families, chosen, strict=True)]
        try:  # OptimalRanks
            ranks = select_alds(
                dataclasses.replace(problem, tables=tuple(f.table for f in current))
            )
        except InfeasibleBudgetError:
            return best
        if best is not None and ranks.objective >= best.objective:
            return best
        rows = {
            f.table.site: None if (row := ranks.rows[f.table.site]) is None else f.rows[row]
            for f in current
        }
        best = dataclasses.replace(ranks, rows=rows)
        chosen = [  # OptimalSubspaces
            index
            if (row := rows[table.site]) is None
            else int(np.argmin([f.least_error(kind, table.cost[kind][row]) for f in own]))
            for table, own, index in zip(problem.tables, families, chosen, strict=True)
        ]
    return best
