"""One keep ratio for all sites: the plain baseline."""

import numpy as np

from tfapprox.selection.error_bound import select_error_bound
from tfapprox.selection.frontier import Frontier, dense_reason, feasible_frontiers
from tfapprox.selection.problem import Problem, Selection


def select_uniform(problem: Problem) -> Selection:
    """Returns every site's best row that costs at most one common ratio of its dense cost.

    The ratio is the largest that meets the budget. A site that can't go as low takes
    its cheapest row, so that the floor is the same as for every other selector; one
    whose candidates all cost more than dense stays. The objective is the ratio.

    With a bound on the error instead of a keep ratio, see `select_error_bound`.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.

    References:
      SVD in Liebenwein et al. 2021, supplement (constant compression ratio).
    """
    if problem.budget.max_error is not None:
        return select_error_bound(problem)
    frontiers = feasible_frontiers(problem)
    ratio = _largest_common_ratio(frontiers, problem.limit)
    reason = "the budget leaves room to keep it dense"
    rows = {f.table.site: _best_within(f, ratio) for f in frontiers}
    reasons = {
        f.table.site: dense_reason(f, problem.budget.kind, reason)
        for f in frontiers
        if rows[f.table.site] is None
    }
    return Selection(rows, reasons, ratio)


def _steps(frontier: Frontier) -> np.ndarray:
    """Returns the costs a site can have, rising from its cheapest row to dense."""
    return np.append(frontier.cost[::-1], frontier.dense)


def _largest_common_ratio(frontiers: list[Frontier], limit: float) -> float:
    """Returns the largest ratio of cost to dense cost whose rows cost at most `limit`.

    One pass over all rows by rising ratio: each adds what its site's previous row
    cost less.
    """
    if not frontiers:
        return 1.0
    steps = [_steps(f) for f in frontiers]
    ratio = np.concatenate([s / s[-1] for s in steps])
    order = np.argsort(ratio, kind="stable")
    ratio = ratio[order]
    added = np.concatenate([np.diff(s, prepend=s[0]) for s in steps])[order]
    total = sum(int(s[0]) for s in steps) + np.cumsum(added)
    # Sites of the same shape move together: a ratio is affordable if its last row is.
    last = np.searchsorted(ratio, ratio, side="right") - 1
    affordable = np.flatnonzero(total[last] <= limit)
    return float(ratio[affordable[-1]])


def _best_within(frontier: Frontier, ratio: float) -> int | None:
    steps = _steps(frontier)
    index = max(0, int(np.searchsorted(steps / steps[-1], ratio, side="right")) - 1)
    return None if index == len(frontier.rows) else int(frontier.rows[::-1][index])
