"""EVBMF: ranks where the noise begins, whatever the error."""

import dataclasses

import numpy as np

from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.selection.frontier import COST_WORDS
from tfapprox.selection.problem import CandidateTable, CostKind, Problem, Selection


@dataclasses.dataclass(frozen=True)
class EvbmfSelector:
    """Takes every site's ranks from EVBMF, one common factor times.

    A row holds a factor t if each of its ranks is at least t times the EVBMF rank of
    its own unfolding, and at least `floor`. Of the rows that hold t the cheapest is
    taken: so ranks are rounded up to the multiples that the tables offer, and among
    several schemes or methods the cheapest wins.

    The method itself knows no budget. Here t is `weakening`, unless the selection
    would then exceed the budget: then t is the largest smaller factor that does not.

    Attributes:
      weakening: 1 takes EVBMF's ranks as they are, 1.3 leaves 30 % more.
      floor: least rank. At 0 a kernel in which EVBMF finds only noise stays dense,
        because that is the mark of an untrained or a flat one; above 0 it is
        factorized all the same.

    References:
      Kim et al.: Compression of Deep Convolutional Neural Networks for Fast and Low
      Power Mobile Applications, 2016, Section 3.2; Elhoushi et al. 2021.
    """

    weakening: float = 1.0
    floor: int = 0

    def __post_init__(self):
        if self.weakening <= 0 or self.floor < 0:
            raise UserError(
                f"evbmf needs weakening > 0 and floor >= 0, got {self.weakening}, {self.floor}"
            )

    def __call__(self, problem: Problem) -> Selection:
        """Returns the rows; the objective is the factor t.

        Raises:
          UserError: the budget is a bound on the error, or no table has EVBMF ranks.
          InfeasibleBudgetError: these rows can't meet the budget, however small t.
        """
        if problem.budget.keep is None:
            raise UserError("selector evbmf needs a keep ratio; with max_error use --selector=alds")
        if not any(any(table.noise_ranks) for table in problem.tables):
            raise UserError(
                "selector evbmf needs candidates of svd with --slices=1 or of tucker2, in a metric "
                "without calibration data (leave out --metric); the tables have none"
            )
        ladders = [self._ladder(table, problem.budget.kind) for table in problem.tables]
        factor = self._largest_factor(ladders, problem)
        rows = {
            ladder.table.site: ladder.rows[index] if (index := ladder.place(factor)) else None
            for ladder in ladders
        }
        reasons = {
            ladder.table.site: self._dense_reason(ladder, problem.budget.kind, factor)
            for ladder in ladders
            if rows[ladder.table.site] is None
        }
        return Selection(rows, reasons, factor)

    def _ladder(self, table: CandidateTable, kind: CostKind) -> "_Ladder":
        """Returns the rows worth taking for some factor, dearest first, after dense."""
        held = np.array([self._held_factor(table, row) for row in range(len(table))])
        cost = np.asarray(table.cost[kind])
        rows: list[int | None] = [None]
        costs, factors = [table.dense_cost(kind)], [np.inf]
        for row in np.lexsort((table.error, cost, -held)).tolist() if len(table) else []:
            if held[row] > 0 and cost[row] < costs[-1]:
                rows.append(row)
                costs.append(int(cost[row]))
                factors.append(float(held[row]))
        return _Ladder(table, rows, np.array(costs), np.array(factors))

    def _held_factor(self, table: CandidateTable, row: int) -> float:
        """Returns the largest factor that the row holds; 0 if it must not be taken."""
        noise = table.noise_ranks[row] if table.noise_ranks else {}
        if not noise or not (self.floor or any(noise.values())):
            return 0.0
        ranks = [table.configurations[row].settings[name] for name in noise]
        if min(ranks) < self.floor:
            return 0.0
        return min(
            rank / found if found else np.inf
            for rank, found in zip(ranks, noise.values(), strict=True)
        )

    def _largest_factor(self, ladders: list["_Ladder"], problem: Problem) -> float:
        """Returns the largest factor up to `weakening` whose rows meet the budget."""
        limit = problem.limit
        steps = {float(t) for ladder in ladders for t in ladder.factors if t < self.weakening}
        for factor in sorted({self.weakening, *steps}, reverse=True):
            if sum(ladder.cost(factor) for ladder in ladders) <= limit:
                return factor
        kind = problem.budget.kind
        fixed = getattr(problem.fixed, kind)
        whole = fixed + sum(ladder.costs[0] for ladder in ladders)
        floor = float(fixed + sum(ladder.costs[-1] for ladder in ladders)) / whole
        raise InfeasibleBudgetError(
            f"keeping {problem.budget.keep:g} of the {COST_WORDS[kind]} is out of reach of evbmf: "
            f"{np.ceil(floor * 1e4) / 1e4:.4f} is the least; sites in which it finds only noise, "
            f"or for which svd and tucker2 are not tried, stay dense; ask for more, "
            f"lower --rank_multiple, or use --selector=alds",
            floor,
        )

    def _dense_reason(self, ladder: "_Ladder", kind: CostKind, factor: float) -> str:
        noise = ladder.table.noise_ranks
        if not any(noise):
            return "no candidate of a method that EVBMF has ranks for"
        if len(ladder.rows) > 1:
            return f"no ranks of {factor:.3g} times EVBMF's or more cost fewer {COST_WORDS[kind]}"
        if not any(any(ranks.values()) for ranks in noise):
            return "EVBMF finds only noise in the kernel; is it trained?"
        return f"no candidate costs fewer {COST_WORDS[kind]} than the dense kernel"


@dataclasses.dataclass(frozen=True, eq=False)
class _Ladder:
    """One site's choices by falling cost and falling factor; the first is dense.

    Attributes:
      rows: in the table; None for dense.
      costs: strictly falling.
      factors: the largest factor that each row holds, never rising.
    """

    table: CandidateTable
    rows: list[int | None]
    costs: np.ndarray
    factors: np.ndarray

    def place(self, factor: float) -> int:
        """Returns the place of the cheapest choice that holds the factor."""
        return int(np.flatnonzero(self.factors >= factor)[-1])

    def cost(self, factor: float) -> int:
        """Returns the cost of that choice."""
        return int(self.costs[self.place(factor)])
