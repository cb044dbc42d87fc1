"""Selection by trying everything."""

import itertools

import numpy as np


def best_largest_error(problem):
    """Returns the smallest largest error of any choice within the limit; inf if there is none."""
    kind, best = problem.budget.kind, np.inf
    options = []
    for table in problem.tables:
        rows = [(0.0, table.dense_cost(kind))]
        rows += [
            (error, cost)
            for error, cost in zip(table.error, table.cost[kind], strict=True)
            if cost < table.dense_cost(kind)
        ]
        options.append(rows)
    for choice in itertools.product(*options):
        if sum(cost for _, cost in choice) <= problem.limit:
            best = min(best, max((error for error, _ in choice), default=0.0))
    return best


def floor_ratio(problem):
    """Returns the smallest share of the whole model's cost that any choice reaches."""
    kind = problem.budget.kind
    fixed = getattr(problem.fixed, kind)
    least = sum(min([t.dense_cost(kind), *t.cost[kind]]) for t in problem.tables)
    dense = sum(t.dense_cost(kind) for t in problem.tables)
    return (fixed + least) / (fixed + dense)


def best_squared_errors(problem):
    """Returns (least sum of squared errors within the limit, least cost of those), or None."""
    kind, best = problem.budget.kind, None
    options = []
    for table in problem.tables:
        cheaper = table.cost[kind] < table.dense_cost(kind)
        squares = np.square(table.error[cheaper])
        options.append(
            [(0.0, table.dense_cost(kind)), *zip(squares, table.cost[kind][cheaper], strict=True)]
        )
    for choice in itertools.product(*options):
        cost = sum(c for _, c in choice)
        found = (round(sum(loss for loss, _ in choice), 12), cost)
        if cost <= problem.limit and (best is None or found < best):
            best = found
    return best
