"""What every selector with a keep ratio must do, and what each one minimises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.selection import best_largest_error, floor_ratio
from tests.reference.strategies import problems
from tfapprox.accounting.cost import Cost
from tfapprox.errors import InfeasibleBudgetError
from tfapprox.registry import SELECTORS
from tfapprox.selection.alds import select_alds
from tfapprox.selection.energy import select_energy
from tfapprox.selection.problem import Budget, CandidateTable, Configuration, Problem
from tfapprox.selection.uniform import select_uniform

# The others need slices or EVBMF ranks in the table, and refuse tables without.
ANY_TABLE = sorted(set(SELECTORS) - {"alds_error", "alds_simple", "evbmf", "svd_error"})
KINDS = st.sampled_from(["params", "macs", "bytes"])


def table_of(site, dense, rows):
    """A table from (error, cost) pairs."""
    cost = np.array([cost for _, cost in rows], np.int64)
    return CandidateTable(
        site,
        [Configuration("svd", {"rank": i}) for i in range(len(rows))],
        np.array([error for error, _ in rows], np.float64),
        {"params": cost, "macs": cost, "bytes": cost},
        Cost(dense, dense, dense),
        1.0,
    )


def solve(selector, problem):
    """Returns the selection, or None when the budget is refused."""
    try:
        return selector(problem)
    except InfeasibleBudgetError:
        return None


def total_cost(problem, selection):
    kind, total = problem.budget.kind, 0
    for table in problem.tables:
        row = selection.rows[table.site]
        total += table.dense_cost(kind) if row is None else table.cost[kind][row]
    return total


@pytest.mark.parametrize("name", ANY_TABLE)
@given(problem=problems())
def test_the_budget_is_never_exceeded(name, problem):
    selection = solve(SELECTORS[name], problem)
    if selection is not None:
        assert total_cost(problem, selection) <= problem.limit


@pytest.mark.parametrize("name", ANY_TABLE)
@given(problem=problems())
def test_only_an_infeasible_budget_is_refused_and_the_floor_is_named(name, problem):
    floor = floor_ratio(problem) if problem.tables else None
    if floor is not None and problem.budget.keep < floor - 1e-3:
        with pytest.raises(InfeasibleBudgetError, match="is out of reach") as caught:
            SELECTORS[name](problem)
        assert caught.value.floor == pytest.approx(floor)
        assert "\n" not in str(caught.value)
    elif best_largest_error(problem) < np.inf:
        assert solve(SELECTORS[name], problem) is not None


@pytest.mark.parametrize("name", ANY_TABLE)
@given(problem=problems(), kind=KINDS)
def test_the_floor_itself_is_feasible(name, problem, kind):
    if problem.tables:
        budget = Budget(kind, keep=min(1.0, floor_ratio(problem) + 1e-9))
        problem = Problem(problem.tables, budget, problem.fixed)
        assert total_cost(problem, SELECTORS[name](problem)) <= problem.limit


@pytest.mark.parametrize("name", ANY_TABLE)
@given(problem=problems())
def test_every_dense_site_has_a_reason_and_every_row_costs_less_than_dense(name, problem):
    selection = solve(SELECTORS[name], problem)
    if selection is not None:
        assert set(selection.rows) == {table.site for table in problem.tables}
        dense = {site for site, row in selection.rows.items() if row is None}
        assert dense == set(selection.reasons)
        assert all(selection.reasons.values())
        for table in problem.tables:
            row = selection.rows[table.site]
            assert row is None or table.cost["macs"][row] < table.dense_cost("macs")


# Random starts see sites and rows in their order.
@pytest.mark.parametrize("name", sorted({*ANY_TABLE} - {"alds_alternating"}))
@given(problem=problems())
def test_the_order_of_rows_and_sites_changes_nothing(name, problem):
    def turned(table):
        rows = list(zip(table.error, table.cost["macs"], strict=True))[::-1]
        return table_of(table.site, table.dense.macs, rows)

    def picks(problem):
        selection = solve(SELECTORS[name], problem)
        if selection is None:
            return None
        rows = {table.site: table for table in problem.tables}
        return {
            site: None if r is None else (rows[site].error[r], rows[site].cost["macs"][r])
            for site, r in selection.rows.items()
        }

    reversed_tables = tuple(turned(table) for table in problem.tables[::-1])
    assert picks(problem) == picks(Problem(reversed_tables, problem.budget, problem.fixed))


@pytest.mark.parametrize("name", ANY_TABLE)
@given(problem=problems())
def test_keeping_everything_changes_no_site_unless_it_is_free(name, problem):
    problem = Problem(problem.tables, Budget("macs", keep=1.0), problem.fixed)
    selection = SELECTORS[name](problem)
    errors = {t.site: t.error for t in problem.tables}
    taken = [errors[site][row] for site, row in selection.rows.items() if row is not None]
    assert not any(taken)


@pytest.mark.parametrize("name", ANY_TABLE)
def test_a_kind_of_cost_is_limited_only_by_itself(name):
    table = table_of("a", 100, [(0.1, 50)])
    cost = {"params": np.array([50]), "macs": np.array([200]), "bytes": np.array([50])}
    table = CandidateTable("a", table.configurations, table.error, cost, table.dense, 1.0)
    assert SELECTORS[name](Problem((table,), Budget("params", keep=0.5))).rows == {"a": 0}
    with pytest.raises(InfeasibleBudgetError, match=r"1\.0000"):
        SELECTORS[name](Problem((table,), Budget("macs", keep=0.5)))


@given(problems(max_sites=4))
def test_alds_reaches_the_smallest_largest_error_there_is(problem):
    best = best_largest_error(problem)
    selection = solve(select_alds, problem)
    if best == np.inf:
        assert selection is None
    else:
        errors = {table.site: table.error for table in problem.tables}
        taken = [errors[site][row] for site, row in selection.rows.items() if row is not None]
        assert max(taken, default=0.0) == selection.objective == best


@given(problems())
def test_alds_leaves_no_affordable_improvement_unspent(problem):
    selection = solve(select_alds, problem)
    if selection is None:
        return
    left = problem.limit - total_cost(problem, selection)
    for table in problem.tables:
        row = selection.rows[table.site]
        if row is not None:
            better = np.append(table.cost["macs"][table.error < table.error[row]], table.dense.macs)
            assert better.min() - table.cost["macs"][row] > left


def test_alds_spends_the_rest_on_the_worst_site_first():
    sites = [
        table_of("worst", 100, [(0.5, 40), (0.1, 90)]),
        table_of("middle", 100, [(0.4, 40), (0.2, 50)]),
        table_of("best", 100, [(0.3, 40), (0.2, 50)]),
    ]
    selection = select_alds(Problem(tuple(sites), Budget("macs", keep=0.44)))
    assert selection.rows == {"worst": 0, "middle": 1, "best": 0}
    assert selection.objective == 0.5


@given(problems())
def test_energy_is_one_threshold_on_the_squared_error(problem):
    selection = solve(select_energy, problem)
    if selection is not None:
        tau = selection.objective
        errors = {table.site: table.error for table in problem.tables}
        taken = [errors[site][row] for site, row in selection.rows.items() if row is not None]
        assert tau == pytest.approx(max(taken, default=0.0) ** 2)
        smaller = [e[e**2 < tau - 1e-12] for e in errors.values()]
        # With the next smaller threshold every site's cheapest row is over the budget.
        if tau > 0:
            bound = max((e.max() for e in smaller if len(e)), default=0.0)
            costs = [
                min([t.dense_cost("macs"), *t.cost["macs"][t.error <= bound]])
                for t in problem.tables
            ]
            assert sum(costs) > problem.limit


@given(problems())
def test_uniform_takes_the_best_row_within_one_ratio(problem):
    selection = solve(select_uniform, problem)
    if selection is None:
        return
    ratio = selection.objective
    for table in problem.tables:
        row, dense = selection.rows[table.site], table.dense_cost("macs")
        cheap = table.cost["macs"] < dense
        within = cheap & (table.cost["macs"] / dense <= ratio)
        if row is None:
            assert ratio >= 1 or not cheap.any()
        elif within.any():
            assert table.error[row] == table.error[within].min()
        else:
            assert table.cost["macs"][row] == table.cost["macs"][cheap].min()


@given(problems())
def test_uniform_ratio_is_the_largest_that_meets_the_budget(problem):
    selection = solve(select_uniform, problem)
    if selection is None or not problem.tables:
        return
    ratios = {1.0}
    for table in problem.tables:
        dense = table.dense_cost("macs")
        ratios |= {c / dense for c in table.cost["macs"] if c < dense}
    for ratio in [r for r in ratios if r > selection.objective]:
        total = 0
        for table in problem.tables:
            dense, cost = table.dense_cost("macs"), table.cost["macs"]
            options = [(e, c) for e, c in zip(table.error, cost, strict=True) if c < dense]
            within = [(e, c) for e, c in options if c / dense <= ratio]
            if ratio >= 1 or not options:
                total += dense
            elif within:
                total += min(within)[1]
            else:
                total += min(c for _, c in options)
        same_rows = total == total_cost(problem, selection)
        assert same_rows or total > problem.limit


def test_reasons_tell_a_user_why_a_site_stays_dense():
    tables = (
        table_of("poor", 100, [(0.9, 50)]),
        table_of("good", 100, [(0.1, 20)]),
        table_of("tiny", 10, [(0.0, 10)]),
    )
    reasons = select_alds(Problem(tables, Budget("macs", keep=0.7))).reasons
    assert reasons == {
        "poor": "no candidate with error at most 0.1, the least that meets the budget, "
        "costs fewer MACs",
        "tiny": "no candidate costs fewer MACs than the dense kernel",
    }
    reasons = select_alds(Problem(tables, Budget("params", keep=1.0))).reasons
    assert reasons["good"] == "the budget is met without it"
    reasons = select_uniform(Problem(tables, Budget("params", keep=1.0))).reasons
    assert reasons["good"] == "the budget leaves room to keep it dense"
