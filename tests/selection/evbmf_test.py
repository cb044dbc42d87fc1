import numpy as np
import pytest

from tests.reference.tensor_methods import decaying_kernel
from tfapprox.accounting.cost import Cost
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.decompositions.tucker import TuckerDecomposition
from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.selection.evbmf import EvbmfSelector
from tfapprox.selection.problem import Budget, CandidateTable, Configuration, Problem

HALF = Budget("macs", keep=0.5)


def _table(site, found, ranks=range(4, 40, 4), dense=400):
    """A table with one rank, 10 cost units each, and the rank that EVBMF found."""
    ranks = list(ranks)
    cost = 10 * np.array(ranks)
    return CandidateTable(
        site,
        [Configuration("svd", {"rank": rank}) for rank in ranks],
        1 / np.array(ranks, np.float64),
        {"params": cost, "macs": cost, "bytes": cost},
        Cost(dense, dense, dense),
        1.0,
        [{"rank": found}] * len(ranks),
    )


def _ranks(problem, **options):
    selection = EvbmfSelector(**options)(problem)
    taken = {
        table.site: row and table.configurations[row].settings["rank"]
        for table, row in zip(problem.tables, selection.rows.values(), strict=True)
    }
    return taken, selection


def test_ranks_are_evbmfs_rounded_up_to_the_offered_ones():
    taken, selection = _ranks(Problem((_table("a", 9), _table("b", 16)), Budget("macs", keep=1.0)))
    assert taken == {"a": 12, "b": 16}
    assert selection.objective == 1.0


def test_weakening_leaves_higher_ranks():
    problem = Problem((_table("a", 10),), Budget("macs", keep=1.0))
    assert _ranks(problem)[0] == {"a": 12}
    assert _ranks(problem, weakening=1.5)[0] == {"a": 16}


def test_a_tight_budget_lowers_all_ranks_by_one_factor():
    tables = (_table("a", 30), _table("b", 15))
    taken, selection = _ranks(Problem(tables, Budget("macs", keep=0.3)))
    assert sum(10 * rank for rank in taken.values()) <= 240
    for table in tables:
        found = table.noise_ranks[0]["rank"]
        above = [r.settings["rank"] for r in table.configurations]
        least = min(rank for rank in above if rank >= selection.objective * found)
        assert taken[table.site] == least
    assert 0 < selection.objective < 1


def test_pure_noise_stays_dense_unless_there_is_a_floor():
    problem = Problem((_table("noise", 0), _table("b", 8)), Budget("macs", keep=0.9))
    taken, selection = _ranks(problem)
    assert taken == {"noise": None, "b": 8}
    assert selection.reasons == {"noise": "EVBMF finds only noise in the kernel; is it trained?"}
    assert _ranks(problem, floor=10)[0] == {"noise": 12, "b": 12}


def test_what_saves_nothing_at_evbmfs_ranks_stays_dense():
    taken, selection = _ranks(
        Problem((_table("full", 37), _table("b", 8)), Budget("macs", keep=0.9))
    )
    assert taken == {"full": None, "b": 8}
    assert "no ranks of 1 times EVBMF's or more cost fewer MACs" in selection.reasons["full"]


def test_refusals_name_the_way_out():
    with pytest.raises(InfeasibleBudgetError, match=r"0\.5500 is the least") as caught:
        EvbmfSelector()(Problem((_table("noise", 0), _table("b", 8)), HALF))
    assert caught.value.floor == pytest.approx((400 + 40) / 800)
    bare = _table("a", 9)
    bare = CandidateTable("a", bare.configurations, bare.error, bare.cost, bare.dense, 1.0)
    with pytest.raises(UserError, match="needs candidates of svd with --slices=1 or of tucker2"):
        EvbmfSelector()(Problem((bare,), HALF))
    with pytest.raises(UserError, match="needs a keep ratio"):
        EvbmfSelector()(Problem((bare,), Budget("macs", max_error=0.1)))
    with pytest.raises(UserError, match="weakening > 0"):
        EvbmfSelector(weakening=0.0)


def test_a_planted_rank_is_taken_through_svd_and_tucker_tables():
    generator = np.random.default_rng(0)
    kernel = np.einsum(
        "hwrs,ir,os->hwio",
        decaying_kernel((3, 3, 8, 16), decay=0.0),
        np.linalg.qr(generator.normal(size=(48, 8)))[0],
        np.linalg.qr(generator.normal(size=(64, 16)))[0],
    )
    kernel += 0.01 * generator.normal(size=kernel.shape)
    site = Site("conv", "conv2d", kernel, (Geometry(padding="SAME", input_size=(8, 8)),))
    spectra = SpectrumCache()
    for method, expected in [
        (SvdDecomposition(), {"scheme": 0, "slices": 1, "rank": 16}),
        (TuckerDecomposition(), {"rank_in": 8, "rank_out": 16}),
    ]:
        options = CandidateOptions(schemes=(0,), slices=(1, 2))
        table = method.candidates(site, "operator", options, spectra)
        selection = EvbmfSelector()(Problem((table,), Budget("macs", keep=1.0)))
        assert table.configurations[selection.rows["conv"]].settings == expected
