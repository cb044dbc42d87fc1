import numpy as np
import pytest

from tfapprox.accounting.cost import Cost
from tfapprox.errors import UserError
from tfapprox.selection.alds import select_alds
from tfapprox.selection.fixed_slices import FixedSlicesSelector
from tfapprox.selection.problem import Budget, CandidateTable, Configuration, Problem


def _table(site, slices, better=None):
    """Ranks 1 to 4 for each k; cost 10 rank + k; the rows of `better` have half the error."""
    settings = [(k, rank) for k in slices for rank in (1, 2, 3, 4)]
    cost = np.array([10 * rank + k for k, rank in settings])
    error = [(0.5 if k == better else 1.0) / (rank + 1) for k, rank in settings]
    return CandidateTable(
        site,
        [Configuration("svd", {"scheme": 0, "slices": k, "rank": r}) for k, r in settings],
        np.array(error),
        {"params": cost, "macs": cost, "bytes": cost},
        Cost(100, 100, 100),
        1.0,
    )


def _taken(selector, *tables, keep=0.35):
    selection = selector(Problem(tables, Budget("macs", keep=keep)))
    rows = [table.configurations[selection.rows[table.site]] for table in tables]
    return [(row.settings["slices"], row.settings["rank"]) for row in rows]


def test_only_rows_with_the_given_slices_are_taken():
    table = _table("a", (1, 3, 4), better=4)
    assert _taken(select_alds, table) == [(4, 3)]
    assert _taken(FixedSlicesSelector("alds_error", 3, select_alds), table) == [(3, 3)]
    assert _taken(FixedSlicesSelector("svd_error", 1, select_alds), table) == [(1, 3)]


def test_the_nearest_number_stands_in_where_k_does_not_divide():
    selector = FixedSlicesSelector("alds_error", 3, select_alds)
    assert _taken(selector, _table("a", (1, 2, 4)), _table("b", (1, 8)), _table("c", (3,))) == [
        (2, 3),
        (1, 3),
        (3, 3),
    ]


def test_slices_that_nobody_offers_are_refused():
    selector = FixedSlicesSelector("alds_error", 3, select_alds)
    with pytest.raises(UserError, match="3 channel slices, the tables have 1; offer more with"):
        _taken(selector, _table("a", (1,)))
    with pytest.raises(UserError, match="have none; add svd to --decompositions"):
        _taken(selector, _table("a", ()))


def test_a_site_without_such_rows_stays_dense_with_a_reason():
    selector = FixedSlicesSelector("svd_error", 1, select_alds)
    tables = (_table("a", (1, 2)), _table("b", ()))
    selection = selector(Problem(tables, Budget("macs", keep=0.7)))
    assert selection.rows["b"] is None
    assert selection.reasons["b"] == "no candidate costs fewer MACs than the dense kernel"
