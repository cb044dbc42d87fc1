"""L-Rank: squared errors and cost traded at one price for all sites."""

import itertools

import numpy as np

from tfapprox.selection.error_bound import select_error_bound
from tfapprox.selection.frontier import Frontier, dense_reason, feasible_frontiers
from tfapprox.selection.problem import Problem, Selection


def select_lrank(problem: Problem) -> Selection:
    """Returns the rows that minimise, site by site, at the price lambda of the budget,

      lambda C(row) + ||W - W_hat||^2,

    with the absolute error (the sum of the discarded squared singular values, in the
    Frobenius metric) and the cost C that the budget limits. Every site moves down the
    lower convex hull of its (cost, squared error) points as lambda grows; lambda is
    raised step by step over all hulls together, until the budget is met. So the
    objective, the sum of squared errors, is the least of all selections of that cost.

    With a bound on the error instead of a keep ratio, see `select_error_bound`.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.

    References:
      Idelbayev and Carreira-Perpinan: Low-rank Compression of Neural Nets: Learning the
      Rank of Each Layer, 2020, Equation 5 and its solution by enumeration. There lambda
      is the user's; here the budget sets it.
    """
    if problem.budget.max_error is not None:
        return select_error_bound(problem)
    frontiers = feasible_frontiers(problem)
    steps = []
    for place, frontier in enumerate(frontiers):
        cost, loss = _points(frontier)
        hull = _lower_hull(cost, loss)
        for here, there in itertools.pairwise(hull):
            price = (loss[there] - loss[here]) / (cost[here] - cost[there])
            steps.append((price, frontier.table.site, there, place, cost[here] - cost[there]))
    taken = [0] * len(frontiers)
    excess = sum(f.dense for f in frontiers) - problem.limit
    for _, _, there, place, saved in sorted(steps):
        if excess <= 0:
            break
        taken[place] = there
        excess -= saved
    return _selection(problem, frontiers, taken)


def _points(frontier: Frontier) -> tuple[np.ndarray, np.ndarray]:
    """Returns costs, falling, and squared absolute errors, rising; dense is the first."""
    cost = np.append(frontier.dense, frontier.cost).astype(np.float64)
    return cost, np.append(0.0, np.square(frontier.error * frontier.table.norm))


def _lower_hull(cost: np.ndarray, loss: np.ndarray) -> list[int]:
    """Returns the indices of the lower convex hull's corners, by falling cost."""
    hull: list[int] = []
    for point in range(len(cost)):
        while len(hull) > 1 and _is_above(cost, loss, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _is_above(cost: np.ndarray, loss: np.ndarray, first: int, middle: int, last: int) -> bool:
    """Says whether `middle` lies on or above the line from `first` to `last`."""
    rise = (loss[middle] - loss[first]) * (cost[first] - cost[last])
    return bool(rise >= (loss[last] - loss[first]) * (cost[first] - cost[middle]))


def _selection(problem: Problem, frontiers: list[Frontier], taken: list[int]) -> Selection:
    rows = {
        f.table.site: int(f.rows[index - 1]) if index else None
        for f, index in zip(frontiers, taken, strict=True)
    }
    reason = "the budget is met at a price below what this site's first candidate loses"
    reasons = {
        f.table.site: dense_reason(f, problem.budget.kind, reason)
        for f in frontiers
        if rows[f.table.site] is None
    }
    losses = [_points(f)[1][index] for f, index in zip(frontiers, taken, strict=True)]
    return Selection(rows, reasons, float(sum(losses)))
