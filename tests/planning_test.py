"""Plans respect filters and budgets, and applying one trusts nothing but its choices."""

import dataclasses

import numpy as np
import pytest

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.moments import MomentAccumulator
from tfapprox.calibration.weights import CovarianceWeight, DiagonalWeight
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.factorizing import factorize_plan
from tfapprox.planning import cost_after, full_rank_plan, make_plan, metric_for, offer_tables
from tfapprox.rewriters.inspection import Inspection, KeptOperation
from tfapprox.rewriters.plan import Plan
from tfapprox.selection.problem import Budget, Configuration

HALF = CompressionConfig(Budget("macs", keep=0.5))


def _site(name: str, *shape: int, seed: int = 0) -> Site:
    kernel = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return Site(name, "conv2d", kernel, (Geometry(padding="SAME", input_size=(8, 8)),))


@pytest.fixture
def inspection() -> Inspection:
    sites = (
        _site("first", 3, 3, 16, 32),
        _site("second", 3, 3, 32, 64),
        _site("head", 1, 1, 64, 10),
    )
    kept = (KeptOperation("depth", "DepthwiseConv2D", "depthwise", Cost(100, 6400, 400)),)
    params = sum(site.cost.params for site in sites) + 100 + 7
    return Inspection(sites, kept, params, 4 * params)


def test_the_budget_holds_for_the_whole_model_counted_on_the_built_stages(inspection):
    spectra = SpectrumCache()
    plan, built = factorize_plan(inspection, make_plan(inspection, HALF, spectra), spectra)
    after = cost_after(inspection, plan)
    assert built and after.macs <= 0.5 * inspection.macs
    dense = [v for v in plan.verdicts if v.choice is None]
    stages = sum(kernel.size for f in built.values() for kernel in (s.kernel for s in f.stages))
    assert after.params == stages + sum(v.before.params for v in dense) + 107


def test_planning_foresees_the_cost_of_the_built_stages(inspection):
    spectra = SpectrumCache()
    planned = make_plan(inspection, HALF, spectra)
    built, _ = factorize_plan(inspection, planned, spectra)
    assert [v.after for v in planned.verdicts] == [v.after for v in built.verdicts]


def test_a_site_of_which_only_outputs_are_known_keeps_the_error_foreseen():
    site, rng = _site("head", 1, 1, 32, 24), np.random.default_rng(1)
    rows = rng.standard_normal((200, 32)) @ rng.standard_normal((32, 32))
    known = {}
    for keeps_inputs in (True, False):
        moments = MomentAccumulator(site.kernel, keeps_inputs)
        moments.add(rows)
        weight = CovarianceWeight(moments.finish(shrinkage=0.0))
        one = Inspection((dataclasses.replace(site, weight=weight),), (), 768, 3072)
        plan = make_plan(one, CompressionConfig(Budget("macs", keep=0.7)), SpectrumCache())
        known[keeps_inputs] = factorize_plan(one, plan, SpectrumCache())[0].verdicts[0]
    assert known[False].choice == known[True].choice is not None
    assert known[False].error == pytest.approx(known[True].error, rel=1e-3)


def test_tables_offered_once_serve_every_budget(inspection):
    tables = offer_tables(inspection, HALF, SpectrumCache())
    for keep in (0.5, 0.8):
        config = dataclasses.replace(HALF, budget=Budget("macs", keep=keep))
        unused = SpectrumCache()
        shared = make_plan(inspection, config, unused, tables=tables)
        assert shared == make_plan(inspection, config, SpectrumCache())
        assert not any(unused.holds(site) for site in inspection.sites)


def test_filters_keep_sites_dense_and_say_so(inspection):
    config = dataclasses.replace(HALF, exclude="^first$|head", budget=Budget("macs", keep=0.8))
    plan = make_plan(inspection, config, SpectrumCache())
    assert set(plan.choices) == {"second"}
    assert "--exclude" in plan.verdicts[0].reason


def test_filters_that_leave_nothing_are_refused(inspection):
    config = dataclasses.replace(HALF, include="convolution")
    with pytest.raises(UserError, match=r"leave none of the 3 sites.*'first'"):
        make_plan(inspection, config, SpectrumCache())


def test_a_model_without_sites_is_refused_with_the_reasons(inspection):
    with pytest.raises(UserError, match=r"depth .DepthwiseConv2D.: depthwise"):
        make_plan(dataclasses.replace(inspection, sites=()), HALF, SpectrumCache())


def test_the_floor_of_an_infeasible_budget_can_be_reached(inspection):
    config = dataclasses.replace(HALF, budget=Budget("params", keep=0.001))
    with pytest.raises(InfeasibleBudgetError) as error:
        make_plan(inspection, config, SpectrumCache())
    reachable = dataclasses.replace(HALF, budget=Budget("params", keep=error.value.floor + 1e-9))
    plan = make_plan(inspection, reachable, SpectrumCache())
    assert cost_after(inspection, plan).params <= reachable.budget.keep * inspection.params


def test_the_full_rank_plan_changes_no_kernel(inspection):
    spectra = SpectrumCache()
    _, built = factorize_plan(inspection, full_rank_plan(inspection), spectra)
    for site in inspection.sites:
        difference = np.linalg.norm(built[site.name].reconstruct() - site.kernel)
        assert difference <= 1e-6 * np.linalg.norm(site.kernel)


def test_an_edited_plan_is_counted_anew(inspection):
    spectra = SpectrumCache()
    plan = make_plan(inspection, HALF, spectra)
    choice = Configuration("svd", {"scheme": 0, "slices": 1, "rank": 2})
    edited = dataclasses.replace(plan.verdicts[1], choice=choice, after=Cost(1, 1, 1))
    plan, built = factorize_plan(inspection, Plan((edited,)), spectra)
    assert list(built) == ["second"]
    assert plan.verdicts[1].after.params == 2 * (9 * 32 + 64)
    assert [v.reason for v in plan.verdicts if v.choice is None] == ["not in the plan"] * 2


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"site": "third"}, "names site 'third', which this model lacks"),
        ({"kernel_shape": (3, 3, 1, 1)}, r"kernel shape \[3, 3, 1, 1\] for site 'second'"),
        ({"choice": Configuration("magic", {})}, "unknown decomposition 'magic'.*svd"),
        (
            {"choice": Configuration("svd", {"scheme": 0, "slices": 1, "rank": 65})},
            "second.*rank must be from 1 to 64, got 65",
        ),
    ],
)
def test_a_plan_that_does_not_fit_the_model_is_refused(inspection, change, complaint):
    verdict = full_rank_plan(inspection).verdicts[1]
    with pytest.raises(UserError, match=complaint):
        factorize_plan(inspection, Plan((dataclasses.replace(verdict, **change),)), SpectrumCache())


def test_progress_is_told_of_every_site(inspection):
    told = []
    make_plan(inspection, HALF, SpectrumCache(), lambda *step: told.append(step))
    assert told == [("planning", i, 3) for i in range(4)]


def test_settings_survive_json():
    config = dataclasses.replace(HALF, include="conv", seed=3)
    assert CompressionConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"selector": "best"}, "unknown selector 'best'.*alds"),
        ({"decompositions": ("magic",)}, "unknown decomposition 'magic'"),
        ({"metric": "taste"}, "unknown metric 'taste'.*operator"),
        ({"include": "("}, "--include .* is not a regular expression"),
        ({"exclude": "["}, "--exclude .* is not a regular expression"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        dataclasses.replace(HALF, **settings)


@pytest.mark.parametrize(
    "selector, without, with_data",
    [
        ("alds", "operator", "covariance"),
        ("pca", "frobenius", "covariance"),
        ("lrank", "frobenius", "output"),
        ("evbmf", "frobenius", "frobenius"),
    ],
)
def test_calibration_data_bring_a_metric_of_their_own(selector, without, with_data):
    config = dataclasses.replace(HALF, selector=selector)
    site = _site("site", 1, 1, 4, 4)
    weighted = dataclasses.replace(site, weight=DiagonalWeight(np.ones((1, 1, 4, 4))))
    assert metric_for(config, [site]) == without
    assert metric_for(config, [site, weighted]) == with_data
    assert config.needs_sensitivities == (with_data == "output")
    other = dataclasses.replace(config, metric="mahalanobis")
    assert metric_for(other, [weighted]) == "mahalanobis" and not other.needs_sensitivities
