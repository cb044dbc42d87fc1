import itertools

import numpy as np
import pytest
from hypothesis import given

from tests.reference.strategies import problems
from tfapprox.accounting.cost import Cost
from tfapprox.errors import InfeasibleBudgetError
from tfapprox.selection.lrank import select_lrank
from tfapprox.selection.problem import Budget, CandidateTable, Configuration, Problem


def _choices(problem):
    """Yields (rows, cost, squared error) of every selection, rows dearer than dense left out."""
    kind = problem.budget.kind
    options = []
    for table in problem.tables:
        dense = table.dense_cost(kind)
        rows = [(None, dense, 0.0)]
        for row, cost in enumerate(table.cost[kind]):
            if cost < dense:
                rows.append((row, cost, (table.error[row] * table.norm) ** 2))
        options.append(rows)
    for choice in itertools.product(*options):
        yield choice, sum(cost for _, cost, _ in choice), sum(loss for _, _, loss in choice)


@given(problem=problems())
def test_no_selection_of_that_cost_or_less_has_a_smaller_squared_error(problem):
    try:
        selection = select_lrank(problem)
    except InfeasibleBudgetError:
        return
    cost = 0
    for table in problem.tables:
        row = selection.rows[table.site]
        cost += table.dense_cost("macs") if row is None else int(table.cost["macs"][row])
    assert cost <= problem.limit
    least = min(loss for _, other, loss in _choices(problem) if other <= cost)
    assert selection.objective == pytest.approx(least, abs=1e-12)


@given(problem=problems())
def test_one_price_explains_every_site(problem):
    """There is a lambda >= 0 at which every site's choice is its own best."""
    try:
        selection = select_lrank(problem)
    except InfeasibleBudgetError:
        return
    least, most = 0.0, np.inf
    for table in problem.tables:
        row = selection.rows[table.site]
        points = [(table.dense_cost("macs"), 0.0)]
        points += zip(table.cost["macs"], np.square(table.error * table.norm), strict=True)
        cost, loss = points[0 if row is None else row + 1]
        for other_cost, other_loss in points:
            if other_cost < cost:
                most = min(most, (other_loss - loss) / (cost - other_cost))
            elif other_cost > cost:
                least = max(least, (loss - other_loss) / (other_cost - cost))
    assert least <= most + 1e-12


def test_the_price_is_paid_where_it_buys_most():
    def table(site, rows):
        cost = np.array([cost for _, cost in rows])
        return CandidateTable(
            site,
            [Configuration("svd", {"rank": rank}) for rank in range(len(rows))],
            np.array([error for error, _ in rows]),
            {"params": cost, "macs": cost, "bytes": cost},
            Cost(100, 100, 100),
            norm=2.0,
        )

    cheap, dear = table("cheap", [(0.1, 50), (0.5, 20)]), table("dear", [(0.4, 50), (0.5, 40)])
    selection = select_lrank(Problem((cheap, dear), Budget("macs", keep=0.75)))
    assert selection.rows == {"cheap": 0, "dear": None}
    assert selection.objective == pytest.approx((2.0 * 0.1) ** 2)
    assert "price" in selection.reasons["dear"]
