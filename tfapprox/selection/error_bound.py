"""Error-bounded selection: every site as cheap as an error allows."""

from tfapprox.selection.frontier import COST_WORDS, dense_reason, make_frontier
from tfapprox.selection.problem import Problem, Selection


def select_error_bound(problem: Problem) -> Selection:
    """Returns the cheapest row of every site with an error of at most the budget's bound.

    Equal costs are settled by the smaller error. The objective is the largest error taken.
    """
    kind, bound = problem.budget.kind, problem.budget.max_error
    assert bound is not None, "this selector needs a budget with max_error"
    reason = f"no candidate with error at most {bound:.3g} costs fewer {COST_WORDS[kind]}"
    rows: dict[str, int | None] = {}
    reasons: dict[str, str] = {}
    objective = 0.0
    for table in problem.tables:
        frontier = make_frontier(table, kind)
        row = rows[table.site] = frontier.cheapest_within(bound)
        if row is None:
            reasons[table.site] = dense_reason(frontier, kind, reason)
        else:
            objective = max(objective, float(table.error[row]))
    return Selection(rows, reasons, objective)
