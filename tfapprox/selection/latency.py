"""The least error that a budget of time can buy, or the least time: an exact knapsack."""

import numpy as np
import scipy.optimize
import scipy.sparse

from tfapprox.selection.alds import smallest_common_error
from tfapprox.selection.error_bound import select_error_bound
from tfapprox.selection.frontier import Frontier, dense_reason, feasible_frontiers
from tfapprox.selection.problem import Problem, Selection

_LEXICOGRAPHIC = 1e-9  # relative slack of the first goal while the second is minimised
_ROUNDING = 1e-12  # relative, of sums in floating point
_MOST_CUTS = 200


def select_latency(problem: Problem) -> Selection:
    """Returns the rows with the least sum of squared relative errors within the budget.

    One row, or none, is taken from each table: a multiple-choice knapsack,

      min sum_ij e_ij^2 x_ij   s.t.   sum_ij c_ij x_ij <= limit,  sum_j x_ij = 1,

    with e = 0 and c = the dense cost for a site that stays as it is. It is solved
    exactly, by branch and bound; of all selections with the least error, one that
    costs least is returned. Measured tables give a row that is not faster than the
    dense kernel, by more than the measurement's noise, the dense kernel's time or
    more: such a row is never taken.

    The sum of squares, and not the largest error, because errors of different sites
    add up in the output like independent noise does; for the largest error
    `select_alds` is exact, with every kind of budget.

    With another budget than time, and measured tables, see `select_fastest`. With a bound
    on the error instead of a keep ratio, the sites are independent and each takes its
    cheapest row: see `select_error_bound`.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.

    References:
      Sinha and Zoltners: The Multiple-Choice Knapsack Problem, 1979.
    """
    if problem.budget.max_error is not None:
        return select_error_bound(problem)
    if problem.budget.kind != "latency" and all("latency" in t.cost for t in problem.tables):
        return select_fastest(problem)
    frontiers = feasible_frontiers(problem)
    losses = [np.append(0.0, np.square(f.error)) for f in frontiers]
    costs = [np.append(f.dense, f.cost).astype(np.float64) for f in frontiers]
    taken = minimise_in_turn(losses, costs, problem.limit)
    rows = {
        f.table.site: int(f.rows[index - 1]) if index else None
        for f, index in zip(frontiers, taken, strict=True)
    }
    reasons = {
        f.table.site: _dense_reason(f, problem)
        for f, index in zip(frontiers, taken, strict=True)
        if not index
    }
    objective = sum(loss[index] for loss, index in zip(losses, taken, strict=True))
    return Selection(rows, reasons, float(objective))


def select_fastest(problem: Problem) -> Selection:
    """Returns the rows that take the least time, with the largest error as small as can be.

    First the smallest eps is found at which rows with an error of at most eps meet the
    budget, as in ALDS; of the selections within the budget that stay below it the fastest
    is returned. So all sites are cut a little: two stages hardly take more time than their
    MACs promise there, while a site that is cut far reads and writes as much as ever.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.
    """
    kind = problem.budget.kind
    bound = smallest_common_error(feasible_frontiers(problem), problem.limit)
    within = [np.flatnonzero(table.error <= bound) for table in problem.tables]
    times = [
        np.append(table.dense.latency, table.cost["latency"][rows]).astype(np.float64)
        for table, rows in zip(problem.tables, within, strict=True)
    ]
    costs = [
        np.append(table.dense_cost(kind), table.cost[kind][rows]).astype(np.float64)
        for table, rows in zip(problem.tables, within, strict=True)
    ]
    taken = minimise_in_turn(times, costs, problem.limit)
    chosen = {
        table.site: int(rows[index - 1]) if index else None
        for table, rows, index in zip(problem.tables, within, taken, strict=True)
    }
    reason = f"nothing with error at most {bound:.3g}, the least that meets the budget, is faster"
    errors = [float(t.error[row]) for t in problem.tables if (row := chosen[t.site]) is not None]
    reasons = {site: reason for site, row in chosen.items() if row is None}
    return Selection(chosen, reasons, max(errors, default=0.0))


def minimise_in_turn(losses: list[np.ndarray], costs: list[np.ndarray], limit: float) -> list[int]:
    """Returns the choice of each group with the least total loss, and of those the cheapest.

    Args:
      losses, costs: float64 [choices] of each group, not negative.
      limit: of the total cost; some choice must meet it.
    """
    if not losses:
        return []
    # In units of the largest cost or loss: the solver's tolerances are absolute.
    unit = max(max(c.max() for c in costs), 1.0)
    scale = max(loss.max() for loss in losses) or 1.0
    loss, cost = np.concatenate(losses) / scale, np.concatenate(costs) / unit
    sizes = [len(group) for group in losses]
    taken = _solve(sizes, loss, [(cost, limit / unit)])
    least = float(loss[taken].sum())
    # Of equally good selections the cheapest: the first answer, unless a better is found.
    cheaper = _solve(
        sizes, cost, [(cost, limit / unit), (loss, least * (1 + _LEXICOGRAPHIC))], required=False
    )
    if len(cheaper) and _is_better(cheaper, taken, loss, cost):
        taken = cheaper
    starts = np.cumsum([0, *sizes[:-1]])
    return [int(index) for index in taken - starts]


def _is_better(new: np.ndarray, old: np.ndarray, loss: np.ndarray, cost: np.ndarray) -> bool:
    """Says whether `new` costs less and, the solver's tolerance apart, is as good."""
    as_good = loss[new].sum() <= loss[old].sum() * (1 + 2 * _LEXICOGRAPHIC)
    return bool(as_good and cost[new].sum() < cost[old].sum())


def _solve(
    sizes: list[int],
    objective: np.ndarray,
    limits: list[tuple[np.ndarray, float]],
    required: bool = True,
) -> np.ndarray:
    """Returns the index of each group's choice in the concatenated columns.

    The solver meets a limit up to about 1e-6 only; a selection beyond it is cut off
    by a constraint of its own, and the problem solved again.

    Raises:
      RuntimeError: no selection was found although one is `required`.
    """
    groups = np.repeat(np.arange(len(sizes)), sizes)
    one_each = scipy.sparse.csr_array(
        (np.ones(len(groups)), (groups, np.arange(len(groups)))), (len(sizes), len(groups))
    )
    constraints = [scipy.optimize.LinearConstraint(one_each, 1, 1)]
    constraints += [
        scipy.optimize.LinearConstraint(column[None, :], -np.inf, limit) for column, limit in limits
    ]
    for _ in range(_MOST_CUTS):
        answer = scipy.optimize.milp(
            objective,
            integrality=np.ones(len(objective)),
            bounds=scipy.optimize.Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if answer.x is None:
            break
        taken = np.flatnonzero(answer.x > 0.5)
        if all(column[taken].sum() <= limit * (1 + _ROUNDING) for column, limit in limits):
            return taken
        row = np.isin(np.arange(len(objective)), taken).astype(np.float64)[None, :]
        constraints.append(scipy.optimize.LinearConstraint(row, -np.inf, len(sizes) - 1))
    if required:
        raise RuntimeError("the knapsack solver found no selection within a feasible budget")
    return np.empty(0, np.int64)


def _dense_reason(frontier: Frontier, problem: Problem) -> str:
    reason = "the budget is met with less error by replacing other sites"
    return dense_reason(frontier, problem.budget.kind, reason)
