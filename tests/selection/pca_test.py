import numpy as np
import pytest
from hypothesis import given

from tests.reference.strategies import problems
from tests.selection.lrank_test import _choices
from tfapprox.accounting.cost import Cost
from tfapprox.errors import InfeasibleBudgetError
from tfapprox.selection.pca import select_pca
from tfapprox.selection.problem import Budget, CandidateTable, Configuration, Problem


def energy(problem, rows):
    kept = [1 - t.error[r] ** 2 for t, r in zip(problem.tables, rows, strict=True) if r is not None]
    return float(np.prod(np.maximum(kept, 1e-12)))


@given(problem=problems())
def test_no_selection_of_that_cost_or_less_keeps_a_larger_product_of_energies(problem):
    try:
        selection = select_pca(problem)
    except InfeasibleBudgetError:
        return
    taken = [selection.rows[table.site] for table in problem.tables]
    costs = [
        table.dense_cost("macs") if row is None else int(table.cost["macs"][row])
        for table, row in zip(problem.tables, taken, strict=True)
    ]
    assert sum(costs) <= problem.limit
    best = max(
        energy(problem, [row for row, *_ in choice])
        for choice, cost, _ in _choices(problem)
        if cost <= sum(costs)
    )
    assert energy(problem, taken) == pytest.approx(best, rel=1e-9)
    assert np.exp(-selection.objective) == pytest.approx(best, rel=1e-9)


def site(name, spectrum, unit, dense):
    """A table of ranks whose responses have this spectrum."""
    share = np.cumsum(spectrum) / np.sum(spectrum)
    cost = unit * np.arange(1, len(spectrum) + 1)
    return CandidateTable(
        name,
        [Configuration("svd", {"rank": rank}) for rank in range(1, len(spectrum) + 1)],
        np.sqrt(1 - share),
        {kind: cost for kind in ("params", "macs", "bytes")},
        Cost(dense, dense, dense),
        1.0,
    )


def greedy(spectra, units, limit):
    """Zhang et al.'s algorithm as published, from the full set of eigenvalues on."""
    ranks = [len(spectrum) for spectrum in spectra]
    while sum(r * unit for r, unit in zip(ranks, units, strict=True)) > limit:
        measures = [
            spectrum[r - 1] / sum(spectrum[:r]) / unit if r > 1 else np.inf
            for spectrum, r, unit in zip(spectra, ranks, units, strict=True)
        ]
        ranks[int(np.argmin(measures))] -= 1
    return ranks


def test_ranks_are_those_of_the_published_algorithm_where_every_rank_saves():
    spectra = [2.0 ** -np.arange(8), 1.3 ** -np.arange(8), 1.6 ** -np.arange(8)]
    units = [10, 30, 20]
    tables = [
        site(f"s{i}", spectrum, unit, 8 * unit + 1)
        for i, (spectrum, unit) in enumerate(zip(spectra, units, strict=True))
    ]
    whole = sum(table.dense.macs for table in tables)
    for keep in (0.3, 0.5, 0.7, 0.9):
        selection = select_pca(Problem(tuple(tables), Budget("macs", keep=keep)))
        found = [8 if row is None else row + 1 for row in selection.rows.values()]
        assert found == greedy(spectra, units, np.floor(keep * whole))
