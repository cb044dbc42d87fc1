"""Plans under measured latency; the measuring itself is stood in for by made-up times."""

import dataclasses

import numpy as np
import pytest

from tfapprox import planning
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.factorizing import factorize_plan
from tfapprox.planning import keep_fastest, make_plan
from tfapprox.registry import SELECTORS
from tfapprox.rewriters.inspection import Inspection
from tfapprox.selection.latency_table import RelativeTime, add_latency
from tfapprox.selection.problem import Budget
from tfapprox.serving.model_latency import TimedModel
from tfapprox.serving.site_latency import SiteTimingOptions

DENSE = {"fast": 4e6, "slow": 3e6, "head": 1e6}
TIMED = TimedModel(10_000_000, {}, SiteTimingOptions(batch_size=8, threads=2))
WITH_BOUND = Budget("latency", max_error=0.9)


def _site(name: str, *shape: int) -> Site:
    kernel = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return Site(name, "conv2d", kernel, (Geometry(padding="SAME", input_size=(8, 8)),))


@pytest.fixture
def inspection() -> Inspection:
    sites = (_site("fast", 3, 3, 32, 64), _site("slow", 3, 3, 64, 64), _site("head", 1, 1, 64, 32))
    params = sum(site.cost.params for site in sites)
    return Inspection(sites, (), params, 4 * params)


@pytest.fixture(autouse=True)
def made_up_times(monkeypatch):
    """Chains take their share of the MACs, but of the site "slow" twice the dense time."""

    def measure(sites, tables, build, dense, options, progress, cache):
        timed = []
        for table in tables:
            share = np.asarray(table.cost["macs"]) / table.dense.macs
            ratio = np.full(len(table), 2.0) if table.site == "slow" else share
            measured = {row: RelativeTime(float(x), 0.0) for row, x in enumerate(ratio)}
            timed.append(add_latency(table, DENSE[table.site], measured))
        return timed

    monkeypatch.setattr(planning, "measure_sites", measure)


def config(budget: Budget, **settings) -> CompressionConfig:
    return CompressionConfig(budget, batch_size=8, **settings)


def test_a_latency_budget_holds_for_the_prediction_which_is_original_less_savings(inspection):
    for selector in ("latency", "alds", "uniform", "energy", "lrank"):
        plan = make_plan(
            inspection,
            config(Budget("latency", keep=0.8), selector=selector),
            SpectrumCache(),
            timed=TIMED,
        )
        predicted = plan.settings["latency"]
        saved = sum(v.before.latency - v.after.latency for v in plan.verdicts)
        assert predicted["original"] == 10.0 and predicted["batch_size"] == 8
        assert predicted["compressed"] == pytest.approx((10_000_000 - saved) / 1e6)
        assert predicted["compressed"] <= 8.0
        assert "slow" not in plan.choices


def test_absolute_milliseconds_are_the_same_budget(inspection):
    plans = [
        make_plan(inspection, config(budget, selector="latency"), SpectrumCache(), timed=TIMED)
        for budget in (Budget("latency", keep=0.8), Budget("latency", limit=8e6))
    ]
    assert plans[0].choices == plans[1].choices


def test_what_the_sites_can_not_reach_is_refused_with_the_floor(inspection):
    with pytest.raises(InfeasibleBudgetError, match="--keep_latency"):
        make_plan(inspection, config(Budget("latency", keep=0.3)), SpectrumCache(), timed=TIMED)


def test_within_an_error_bound_every_site_is_as_fast_as_it_can_be(inspection):
    plan = make_plan(inspection, config(WITH_BOUND), SpectrumCache(), timed=TIMED)
    assert set(plan.choices) == {"fast", "head"}
    assert all(v.error <= 0.9 for v in plan.verdicts)


def test_a_budget_of_macs_with_faster_leaves_what_is_slower_dense_and_says_so(inspection):
    budget = Budget("macs", keep=0.9)
    plan = make_plan(inspection, config(budget, faster=True), SpectrumCache(), timed=TIMED)
    reasons = {v.site: v.reason for v in plan.verdicts}
    assert "slow" not in plan.choices and "measurably faster" in reasons["slow"]
    plain = make_plan(inspection, config(Budget("macs", keep=0.5)), SpectrumCache())
    assert "slow" in plain.choices and "latency" not in plain.settings


@pytest.mark.parametrize(
    "wanted",
    [
        {"budget": Budget("latency", keep=0.8)},
        {"budget": Budget("macs", keep=0.8), "faster": True},
        {"budget": Budget("macs", keep=0.8), "selector": "latency"},
    ],
)
def test_without_the_original_s_latency_there_is_no_plan(inspection, wanted):
    with pytest.raises(UserError, match="SavedModel"):
        make_plan(inspection, CompressionConfig(**wanted), SpectrumCache())


def test_predictions_survive_building_and_json(inspection):
    spectra = SpectrumCache()
    plan = make_plan(inspection, config(WITH_BOUND), spectra, timed=TIMED)
    built, _ = factorize_plan(inspection, plan, spectra)
    assert built == plan
    assert type(plan).from_json(plan.to_json()) == plan


def test_of_fewer_sites_those_that_save_most_stay_and_the_prediction_follows(inspection):
    plan = make_plan(inspection, config(WITH_BOUND), SpectrumCache(), timed=TIMED)
    fewer = keep_fastest(plan, 1)
    assert set(fewer.choices) == {"fast"}
    (fast,) = (v for v in plan.verdicts if v.site == "fast")
    saved = (fast.before.latency - fast.after.latency) / 1e6
    assert fewer.settings["latency"]["compressed"] == pytest.approx(10.0 - saved)
    (head,) = (v for v in fewer.verdicts if v.site == "head")
    assert head.after == head.before and "slower" in head.reason


def test_every_selector_spends_a_budget_of_latency_or_says_what_it_needs(inspection):
    for selector in SELECTORS:
        wanted = dataclasses.replace(config(Budget("latency", keep=0.8)), selector=selector)
        try:
            plan = make_plan(inspection, wanted, SpectrumCache(), timed=TIMED)
        except UserError as error:
            assert selector in str(error)
        else:
            assert plan.settings["latency"]["compressed"] <= 8.0
