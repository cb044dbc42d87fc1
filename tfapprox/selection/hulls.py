"""Losses and cost traded at one price for all sites: down the convex hulls, step by step."""

import itertools
from collections.abc import Callable

import numpy as np

from tfapprox.selection.frontier import Frontier, dense_reason, feasible_frontiers
from tfapprox.selection.problem import Problem, Selection

Loss = Callable[[Frontier], np.ndarray]
"""What each row of a frontier loses, float64 [n], rising with the error; dense loses 0."""


def select_on_hulls(problem: Problem, loss: Loss) -> Selection:
    """Returns the rows that minimise, site by site, at the price lambda of the budget,

      lambda C(row) + loss(row).

    Every site moves down the lower convex hull of its (cost, loss) points as lambda
    grows; lambda is raised step by step over all hulls together, until the budget is
    met. So the objective, the sum of the losses, is the least of all selections of that
    cost.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.
    """
    frontiers = feasible_frontiers(problem)
    points = [_points(frontier, loss) for frontier in frontiers]
    steps = []
    for place, (frontier, (cost, lost)) in enumerate(zip(frontiers, points, strict=True)):
        hull = _lower_hull(cost, lost)
        for here, there in itertools.pairwise(hull):
            price = (lost[there] - lost[here]) / (cost[here] - cost[there])
            steps.append((price, frontier.table.site, there, place, cost[here] - cost[there]))
    taken = [0] * len(frontiers)
    excess = sum(f.dense for f in frontiers) - problem.limit
    for _, _, there, place, saved in sorted(steps):
        if excess <= 0:
            break
        taken[place] = there
        excess -= saved
    total = sum(lost[index] for (_, lost), index in zip(points, taken, strict=True))
    return _selection(problem, frontiers, taken, float(total))


def _points(frontier: Frontier, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """Returns costs, falling, and losses, rising; dense is the first."""
    cost = np.append(frontier.dense, frontier.cost).astype(np.float64)
    return cost, np.append(0.0, loss(frontier))


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


def _selection(
    problem: Problem, frontiers: list[Frontier], taken: list[int], objective: float
) -> Selection:
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
    return Selection(rows, reasons, objective)
