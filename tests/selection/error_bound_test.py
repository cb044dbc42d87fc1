import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.strategies import problems
from tfapprox.registry import SELECTORS
from tfapprox.selection.error_bound import select_error_bound
from tfapprox.selection.problem import Budget, Problem


@given(problems(), st.integers(0, 7))
def test_every_site_is_as_cheap_as_the_bound_allows(problem, sixths):
    bound = sixths / 6
    problem = Problem(problem.tables, Budget("macs", max_error=bound))
    selection = select_error_bound(problem)
    for table in problem.tables:
        row, cost = selection.rows[table.site], table.cost["macs"]
        meets = (table.error <= bound) & (cost < table.dense_cost("macs"))
        if row is None:
            assert not meets.any()
            assert selection.reasons[table.site]
        else:
            assert meets[row] and cost[row] == cost[meets].min()
            assert table.error[row] == table.error[meets & (cost == cost[row])].min()


@pytest.mark.parametrize(
    "name", sorted(set(SELECTORS) - {"alds_error", "alds_simple", "evbmf", "svd_error"})
)
@given(problem=problems())
def test_every_selector_takes_a_bound_instead_of_a_keep_ratio(name, problem):
    problem = Problem(problem.tables, Budget("macs", max_error=0.5))
    assert SELECTORS[name](problem).rows == select_error_bound(problem).rows


def test_the_reason_names_bound_and_cost():
    from tests.selection.selectors_test import table_of

    problem = Problem((table_of("a", 10, [(0.5, 5)]),), Budget("params", max_error=0.125))
    selection = select_error_bound(problem)
    assert selection.reasons == {
        "a": "no candidate with error at most 0.125 costs fewer parameters"
    }
    assert selection.objective == 0.0
    assert np.isinf(problem.limit)
