"""The knapsack finds what trying everything finds, whatever the cost that is limited."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.selection import best_squared_errors
from tests.reference.strategies import problems
from tfapprox.accounting.cost import Cost
from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.selection.latency import minimise_in_turn, select_latency
from tfapprox.selection.problem import Budget, CandidateTable, Configuration, Problem


def timed(site, dense, rows):
    """A table of (error, nanoseconds) rows; the other costs say the opposite of the time."""
    latency = np.array([time for _, time in rows], np.int64)
    column = latency.max(initial=0) - latency
    return CandidateTable(
        site,
        [Configuration("svd", {"rank": i}) for i in range(len(rows))],
        np.array([error for error, _ in rows], np.float64),
        {"params": column, "macs": column, "bytes": column, "latency": latency},
        Cost(1, 1, 1, dense),
        1.0,
    )


def taken_cost(problem, selection):
    kind = problem.budget.kind
    return sum(
        table.dense_cost(kind)
        if (row := selection.rows[table.site]) is None
        else int(table.cost[kind][row])
        for table in problem.tables
    )


@given(problem=problems(max_sites=4, max_rows=5))
def test_no_selection_within_the_budget_has_less_error_nor_one_as_good_less_cost(problem):
    best = best_squared_errors(problem)
    if best is None:
        with pytest.raises(InfeasibleBudgetError):
            select_latency(problem)
        return
    selection = select_latency(problem)
    assert (selection.objective, taken_cost(problem, selection)) == pytest.approx(best)


@given(problem=problems(max_sites=3, max_rows=4), seed=st.integers(0, 999))
def test_with_another_budget_the_fastest_of_the_least_largest_error_is_taken(problem, seed):
    rng = np.random.default_rng(seed)
    tables = tuple(
        dataclasses.replace(
            table,
            cost={**table.cost, "latency": rng.integers(1, 10, len(table))},
            dense=dataclasses.replace(table.dense, latency=9),
        )
        for table in problem.tables
    )
    problem = dataclasses.replace(problem, tables=tables)
    affordable = [
        (max((e for e, _, _ in picked), default=0.0), sum(time for _, _, time in picked))
        for picked in itertools.product(*(_choices(table) for table in tables))
        if sum(macs for _, macs, _ in picked) <= problem.limit
    ]
    if not affordable:
        with pytest.raises(InfeasibleBudgetError):
            select_latency(problem)
        return
    bound = min(worst for worst, _ in affordable)
    selection = select_latency(problem)
    time = sum(_choices(t)[-1 if (r := selection.rows[t.site]) is None else r][2] for t in tables)
    assert selection.objective <= bound
    assert time == min(time for worst, time in affordable if worst <= bound)
    assert taken_cost(problem, selection) <= problem.limit
    assert all(selection.reasons[site] for site, row in selection.rows.items() if row is None)


def _choices(table):
    """(error, MACs, time) of every row and, last, of the dense site."""
    columns = (table.error, table.cost["macs"], table.cost["latency"])
    return [*zip(*columns, strict=True), (0.0, table.dense.macs, table.dense.latency)]


def test_times_of_real_size_meet_the_limit_to_the_nanosecond():
    rng = np.random.default_rng(0)
    for _ in range(5):
        tables = tuple(
            timed(f"site{i}", 40_000_000, list(zip(
                np.sort(rng.random(6)), np.sort(rng.integers(1, 50_000_000, 6))[::-1], strict=True
            )))
            for i in range(5)
        )  # fmt: skip
        problem = Problem(tables, Budget("latency", keep=0.6), Cost(latency=30_000_000))
        best = best_squared_errors(problem)
        selection = select_latency(problem)
        assert taken_cost(problem, selection) <= problem.limit
        assert selection.objective == pytest.approx(best[0], rel=1e-9)
        assert taken_cost(problem, selection) == best[1]


def test_a_limit_that_one_selection_meets_exactly_is_met():
    costs = [np.array([1e9, 333_333_333.0]), np.array([1e9, 123_456_789.0])]
    losses = [np.array([0.0, 0.5]), np.array([0.0, 0.25])]
    assert minimise_in_turn(losses, costs, 456_790_122.0) == [1, 1]


def test_what_is_no_faster_than_dense_is_never_taken():
    tables = (timed("same", 10, [(0.0, 10)]), timed("slower", 10, [(0.0, 12)]))
    selection = select_latency(Problem(tables, Budget("latency", keep=1.0)))
    assert selection.rows == {"same": None, "slower": None}
    assert "fewer milliseconds" in selection.reasons["slower"]


def test_under_an_error_bound_every_site_takes_its_fastest_row():
    table = timed("site", 100, [(0.1, 50), (0.2, 80), (0.3, 30), (0.6, 10)])
    problem = Problem((table,), Budget("latency", max_error=0.3))
    assert select_latency(problem).rows == {"site": 2}


def test_an_absolute_limit_is_a_keep_ratio_of_the_original():
    budget = Budget("latency", limit=2e6)
    assert budget.relative_to(Cost(latency=8_000_000)) == Budget("latency", keep=0.25)
    assert budget.relative_to(Cost(latency=1_000_000)).keep == 1.0
    assert Budget("macs", keep=0.5).relative_to(Cost(1, 1, 1, 1)) == Budget("macs", keep=0.5)
    for wrong in ({"limit": 0.0}, {"limit": 5.0, "keep": 0.5}, {}):
        with pytest.raises(UserError):
            Budget("latency", **wrong)


def test_costs_add_and_subtract_in_every_column():
    cost = Cost(1, 2, 3, 4)
    assert cost + cost == Cost(2, 4, 6, 8)
    assert cost + cost - cost == cost
    assert dataclasses.astuple(Cost()) == (0, 0, 0, 0)


@pytest.mark.parametrize("flip", [False, True])
def test_of_equally_good_selections_the_cheapest_is_taken(flip):
    costs = [np.array([10.0, 4.0]), np.array([10.0, 1.0])]
    losses = [np.array([0.0, 0.5]), np.array([0.0, 0.5])]
    want = [0, 1]
    if flip:
        costs, want = costs[::-1], want[::-1]
    assert minimise_in_turn(losses, costs, 14.0) == want


def test_a_nanosecond_above_the_limit_is_above_it():
    costs, losses = [np.array([1e9, 5e8, 4e8])], [np.array([0.0, 0.1, 0.2])]
    assert minimise_in_turn(losses, costs, 5e8) == [1]
    assert minimise_in_turn(losses, costs, 5e8 - 1) == [2]
