"""ALDS, solved exactly: the smallest largest error under a global budget."""

import heapq

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
    the smallest error at which the total meets the budget. What the budget has left then
    makes the worst site better, step by step, for as long as a step is affordable, then
    the next worst: the largest error is minimal, and those below it small.

    With a bound on the error instead of a keep ratio, see `select_error_bound`.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.

    References:
      Liebenwein et al. 2021, Equation 8 and supplement, Section A.4. We depart from
      Algorithm 1, a local search from random seeds: with one error per candidate the
      problem separates. The paper leaves the rest of the budget unspent.
    """
    if problem.budget.max_error is not None:
        return select_error_bound(problem)
    frontiers = feasible_frontiers(problem)
    bound = smallest_common_error(frontiers, problem.limit)
    positions = [frontier.position_within(bound) for frontier in frontiers]
    _spend_the_rest(frontiers, positions, problem.limit)
    chosen = list(zip(frontiers, positions, strict=True))
    return Selection(
        {f.table.site: f.row(position) for f, position in chosen},
        {f.table.site: _dense_reason(f, problem, bound) for f, p in chosen if p < 0},
        max((float(f.error[p]) for f, p in chosen if p >= 0), default=0.0),
    )


def _spend_the_rest(frontiers: list[Frontier], positions: list[int], limit: float) -> None:
    """Moves `positions` to better rows, the worst error first, within the budget."""
    spent = sum(f.cost[p] if p >= 0 else f.dense for f, p in zip(frontiers, positions, strict=True))
    left = limit - spent
    worst = [
        (-f.error[p], i)
        for i, (f, p) in enumerate(zip(frontiers, positions, strict=True))
        if p >= 0
    ]
    heapq.heapify(worst)
    while worst:
        _, index = heapq.heappop(worst)
        frontier = frontiers[index]
        step = frontier.step_cost(positions[index])
        if step > left:
            continue  # its error stands; what is left may help those below
        left -= step
        positions[index] -= 1
        if positions[index] >= 0:
            heapq.heappush(worst, (-frontier.error[positions[index]], index))


def smallest_common_error(frontiers: list[Frontier], limit: float) -> float:
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
    if frontier.position_within(bound) >= 0:
        return "the budget leaves room to keep it dense"
    reason = (
        f"no candidate with error at most {bound:.3g}, the least that meets the budget, "
        f"costs fewer {words}"
    )
    return dense_reason(frontier, problem.budget.kind, reason)
