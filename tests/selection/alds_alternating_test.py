import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.selection import best_largest_error
from tfapprox.accounting.cost import Cost
from tfapprox.errors import InfeasibleBudgetError
from tfapprox.selection.alds import select_alds
from tfapprox.selection.alds_alternating import AlternatingAldsSelector
from tfapprox.selection.problem import Budget, CandidateTable, Configuration, Problem

SELECT = AlternatingAldsSelector()


def _problem(seed, sites=3, families=3, ranks=4, keep=0.5):
    """Families of falling error and rising cost, crossing one another at random."""
    generator = np.random.default_rng(seed)
    tables = []
    for site in range(sites):
        settings = [(k, r) for k in range(1, families + 1) for r in range(1, ranks + 1)]
        cost = np.cumsum(generator.integers(1, 9, size=(families, ranks)), axis=1).ravel()
        error = -np.sort(-generator.uniform(size=(families, ranks)), axis=1).ravel()
        tables.append(
            CandidateTable(
                f"site{site}",
                [Configuration("svd", {"slices": k, "rank": r}) for k, r in settings],
                error,
                {"params": cost, "macs": cost, "bytes": cost},
                Cost(30, 30, 30),
                1.0,
            )
        )
    return Problem(tuple(tables), Budget("macs", keep=keep))


@given(seed=st.integers(0, 2**16), keep=st.sampled_from([0.2, 0.3, 0.5, 0.9]))
def test_the_exact_selector_is_never_worse_and_bounds_what_alternating_finds(seed, keep):
    problem = _problem(seed, keep=keep)
    try:
        exact = select_alds(problem)
    except InfeasibleBudgetError as error:
        with pytest.raises(InfeasibleBudgetError) as caught:
            SELECT(problem)
        assert caught.value.floor == error.floor
        return
    found = SELECT(problem)
    assert exact.objective == pytest.approx(best_largest_error(problem))
    assert found.objective >= exact.objective - 1e-12
    cost = 0
    for table in problem.tables:
        row = found.rows[table.site]
        cost += 30 if row is None else int(table.cost["macs"][row])
    assert cost <= problem.limit
    taken = [t.error[found.rows[t.site]] for t in problem.tables if found.rows[t.site] is not None]
    assert found.objective == pytest.approx(max(taken, default=0.0))


def test_random_starts_can_miss_the_optimum_and_more_of_them_miss_it_less():
    def misses(starts):
        selector = AlternatingAldsSelector(starts=starts)
        return sum(
            selector(problem).objective > select_alds(problem).objective + 1e-12
            for problem in (_problem(seed, families=6) for seed in range(30))
        )

    assert misses(1) > misses(15) > 0


def test_the_seed_decides_the_starts():
    found = {
        AlternatingAldsSelector(starts=1, seed=seed)(_problem(7, families=8)).objective
        for seed in range(10)
    }
    assert len(found) > 1
    once, again = SELECT(_problem(1)), SELECT(_problem(1))
    assert once.rows == again.rows


def test_subspaces_are_reassigned_at_the_cost_that_ranks_were_given():
    """Family 1 costs what family 2 does at twice its error: alternating must leave it.

    Family 3 has the least error of all, at a cost that is not given.
    """
    cost = np.array([10, 20, 10, 20, 10, 29])
    table = CandidateTable(
        "a",
        [Configuration("svd", {"slices": k, "rank": r}) for k in (1, 2, 3) for r in (1, 2)],
        np.array([0.8, 0.4, 0.4, 0.2, 0.9, 0.1]),
        {"params": cost, "macs": cost, "bytes": cost},
        Cost(30, 30, 30),
        1.0,
    )
    problem = Problem((table,), Budget("macs", keep=0.7))
    for seed in range(6):
        assert AlternatingAldsSelector(starts=1, seed=seed)(problem).rows == {"a": 3}


def test_a_budget_that_no_start_meets_is_met_from_the_cheapest_rows():
    settings = [Configuration("svd", {"slices": k, "rank": 1}) for k in (1, 2, 3, 4)]
    cost = np.array([25, 25, 3, 25])
    costs = {"params": cost, "macs": cost, "bytes": cost}
    tables = [
        CandidateTable(
            f"site{i}", settings, np.array([0.1, 0.2, 0.9, 0.3]), costs, Cost(30, 30, 30), 1.0
        )
        for i in range(9)
    ]
    nothing = CandidateTable(
        "bare", [], np.empty(0), dict.fromkeys(costs, cost[:0]), Cost(1, 1, 1), 1.0
    )
    selection = SELECT(Problem((*tables, nothing), Budget("macs", keep=0.11)))
    assert set(selection.rows.values()) == {2, None} and selection.rows["bare"] is None
    assert selection.objective == 0.9
