"""ALDS, solved exactly: the smallest largest error under a global budget."""

import numpy as np

from tfapprox.selection.error_bound import select_error_bound
from tfapprox.selection.frontier import (
    COST_WORDS,
    Frontier,
    concatenate,
    dense_reason,
    feasible_frontiers,
)
from tfapprox.selection.problem import Problem, Selection


def select_alds(problem: Problem) -> Selection:
    """Returns the rows that minimise the largest error of any site within the budget.

    For a given error eps every site is independent: it takes its cheapest row with
    error <= eps, or stays dense. The total cost never rises in eps, so the optimum is
    the smallest error at which the total meets the budget. Whatever the budget has
    left then is not spent; among rows that meet eps the cheapest is taken, of equally
    cheap ones the best.

    With a bound on the error instead of a keep ratio, see `select_error_bound`.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.

    References:
      Liebenwein et al. 2021, Equation 8 and supplement, Section A.4. We depart from
      Algorithm 1, a local search from random seeds: with one error per candidate the
      problem separates.
    """
    if problem.budget.max_error is not None:
        return select_error_bound(problem)
    frontiers = feasible_frontiers(problem)
    bound = _smallest_common_error(frontiers, problem.limit)
    rows: dict[str, int | None] = {}
    reasons: dict[str, str] = {}
    objective = 0.0
    for frontier in frontiers:
        site = frontier.table.site
        row = rows[site] = frontier.cheapest_within(bound)
        if row is None:
            reasons[site] = _dense_reason(frontier, problem, bound)
        else:
            objective = max(objective, float(frontier.table.error[row]))
    return Selection(rows, reasons, objective)


def _smallest_common_error(frontiers: list[Frontier], limit: float) -> float:
    """Returns the smallest eps whose cheapest rows cost at most `limit`, at least 0.

    One pass over all rows by rising error: each saves what its site's previous row
    (or the dense kernel) cost more.
    """
    dense = sum(f.dense for f in frontiers)
    error = concatenate(frontiers, "error")
    savings = [np.append(f.dense, f.cost[:-1]) - f.cost for f in frontiers if len(f.cost)]
    if not savings:
        return 0.0
    order = np.argsort(error, kind="stable")
    saved = np.append(0, np.cumsum(np.concatenate(savings)[order]))
    needed = int(np.searchsorted(saved, dense - limit, side="left"))
    return float(error[order][needed - 1]) if needed else 0.0


def _dense_reason(frontier: Frontier, problem: Problem, bound: float) -> str:
    words = COST_WORDS[problem.budget.kind]
    if bound == 0.0:
        return dense_reason(frontier, problem.budget.kind, "the budget is met without it")
    reason = (
        f"no candidate with error at most {bound:.3g}, the least that meets the budget, "
        f"costs fewer {words}"
    )
    return dense_reason(frontier, problem.budget.kind, reason)
