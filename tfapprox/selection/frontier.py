"""The rows of a table worth taking: what is dearer and worse than another is dropped."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfapprox.errors import InfeasibleBudgetError
from tfapprox.selection.problem import CandidateTable, CostKind, Problem

COST_WORDS: dict[CostKind, str] = {
    "params": "parameters",
    "macs": "MACs",
    "bytes": "bytes",
    "latency": "milliseconds",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Frontier:
    """The undominated rows of one table that cost less than dense.

    Attributes:
      table: where they come from.
      dense: cost of the dense kernel.
      rows: int [n], by rising error.
      error: float64 [n], strictly rising.
      cost: int64 [n], strictly falling, all below `dense`.
    """

    table: CandidateTable
    dense: int
    rows: np.ndarray
    error: np.ndarray
    cost: np.ndarray

    def position_within(self, bound: float) -> int:
        """Returns the position of the cheapest row with an error of at most `bound`; -1: dense."""
        return int(np.searchsorted(self.error, bound, side="right")) - 1

    def row(self, position: int) -> int | None:
        """Returns the table's row at a position, or None for dense."""
        return int(self.rows[position]) if position >= 0 else None

    def cheapest_within(self, bound: float) -> int | None:
        """Returns the cheapest row with an error of at most `bound`, the best of equal ones."""
        return self.row(self.position_within(bound))

    def step_cost(self, position: int) -> int:
        """Returns what the next better row, in the end dense, costs more than `position`."""
        better = self.cost[position - 1] if position > 0 else self.dense
        return better - self.cost[position]


def make_frontier(table: CandidateTable, kind: CostKind) -> Frontier:
    """Returns the frontier of a table in error and the cost of this kind."""
    cost, dense = np.asarray(table.cost[kind]), table.dense_cost(kind)
    order = np.lexsort((cost, table.error))
    cost = cost[order]
    # Of what is at most as good, only what is cheaper than everything better remains.
    cheapest_so_far = np.minimum.accumulate(np.append(dense, cost))[:-1]
    kept = cost < cheapest_so_far
    rows = order[kept]
    return Frontier(table, dense, rows, table.error[rows], cost[kept])


def feasible_frontiers(problem: Problem) -> list[Frontier]:
    """Returns a frontier for each table of a problem with a keep ratio.

    Raises:
      InfeasibleBudgetError: not even the cheapest row of every table meets the budget.
    """
    kind = problem.budget.kind
    frontiers = [make_frontier(table, kind) for table in problem.tables]
    cheapest = sum(int(f.cost[-1]) if len(f.cost) else f.dense for f in frontiers)
    if cheapest > problem.limit:
        fixed = getattr(problem.fixed, kind)
        whole = fixed + sum(f.dense for f in frontiers)
        floor = (fixed + cheapest) / whole
        raise InfeasibleBudgetError(_infeasible_message(problem, floor), floor)
    return frontiers


def dense_reason(frontier: Frontier, kind: CostKind, reason: str) -> str:
    """Returns why a site stays dense: `reason`, unless no row is cheaper at all."""
    if len(frontier.rows):
        return reason
    return f"no candidate costs fewer {COST_WORDS[kind]} than the dense kernel"


def concatenate(frontiers: Sequence[Frontier], field: str) -> np.ndarray:
    """Returns one column over the rows of all frontiers, one after the other."""
    return np.concatenate([getattr(f, field) for f in frontiers] or [np.empty(0)])


def _infeasible_message(problem: Problem, floor: float) -> str:
    kind, keep = problem.budget.kind, problem.budget.keep
    # Rounded up, so that the number in the message is itself feasible.
    reachable = np.ceil(floor * 1e4) / 1e4
    return (
        f"keeping {keep:g} of the {COST_WORDS[kind]} is out of reach: {reachable:.4f} is the "
        f"least that these sites and decompositions can reach; ask for --keep_{kind} "
        f"{reachable:.4f} or more, admit more sites, or lower --rank_multiple"
    )
