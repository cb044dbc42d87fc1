"""Every selector with every decomposition and every budget: it works, or says why not."""

import argparse
import dataclasses
import re

import numpy as np
import pytest

from tfapprox import registry
from tfapprox.accounting.cost import Cost
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.cli.compress_flags import add_flags
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.slice_generator import SliceShape
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.factorizing import factorize_plan
from tfapprox.planning import make_plan
from tfapprox.rewriters.inspection import Inspection
from tfapprox.selection.greedy import score_tables
from tfapprox.selection.problem import Budget, Problem
from tfapprox.slice_planning import choose_code_size

OPTIONS = CandidateOptions(schemes=(0, 1), slices=(1, 3), rank_multiple=2)
KINDS = ("params", "macs", "bytes", "latency")
BUDGETS = [
    *(Budget(kind, keep=0.6) for kind in KINDS),
    *(Budget(kind, keep=1e-6) for kind in KINDS),
    *(Budget(kind, max_error=0.5) for kind in KINDS),
]
# What a combination may be refused for; each message names what to do instead.
REASONS = ("out of reach", "needs a keep ratio", "channel slices", "needs candidates of svd")


def _sites() -> tuple[Site, ...]:
    rng = np.random.default_rng(0)
    places = (Geometry(padding="SAME", input_size=(6, 6)),)
    shapes = {"conv": (3, 3, 6, 8), "dense": (1, 1, 12, 10)}
    kinds = {"conv": ("conv2d", places), "dense": ("dense", (Geometry(),))}
    return tuple(
        Site(name, kinds[name][0], rng.standard_normal(shape).astype(np.float32), kinds[name][1])
        for name, shape in shapes.items()
    )


SITES = _sites()


@pytest.fixture(scope="module")
def spectra():
    return SpectrumCache()


def _tables(decomposition, metric, spectra):
    method = registry.DECOMPOSITIONS[decomposition]
    tables = []
    for site in SITES:
        table = method.candidates(site, metric, OPTIONS, spectra)
        latency = np.maximum(1, np.asarray(table.cost["macs"]) // 2 + 40)
        dense = dataclasses.replace(table.dense, latency=table.dense.macs)
        tables.append(
            dataclasses.replace(table, cost={**table.cost, "latency": latency}, dense=dense)
        )
    return tables


def _flags() -> set[str]:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return {name for action in parser._actions for name in action.option_strings}


@pytest.mark.parametrize("decomposition", registry.DECOMPOSITIONS)
def test_a_selector_meets_the_budget_or_refuses_with_a_reason(decomposition, spectra):
    flags = _flags()
    worked = 0
    for name, selector in registry.SELECTORS.items():
        tables = _tables(decomposition, registry.SELECTOR_METRIC[name], spectra)
        for budget in BUDGETS:
            judged = tables
            if name == "greedy":
                tables, judged = score_tables(
                    SITES, tables, budget.kind, lambda s, c: 1.0 - 0.01 * (c is not None),
                    lambda *told: None,
                )  # fmt: skip
            problem = Problem(tuple(judged), budget, Cost())
            try:
                selection = selector(problem)
            except UserError as refusal:
                message = str(refusal)
                assert any(reason in message for reason in REASONS), (name, budget, message)
                assert set(re.findall(r"--[a-z_]+", message)) <= flags, message
                assert "\n" not in message
                if budget.keep == 1e-6 and isinstance(refusal, InfeasibleBudgetError):
                    assert refusal.floor > budget.keep
                continue
            worked += 1
            assert budget.keep != 1e-6, (name, decomposition)
            assert set(selection.rows) == {site.name for site in SITES}
            chosen = [(table, selection.rows[table.site]) for table in judged]
            if budget.keep is not None:
                spent = sum(
                    table.dense_cost(budget.kind) if row is None else table.cost[budget.kind][row]
                    for table, row in chosen
                )
                assert spent <= problem.limit, (name, budget)
            else:
                assert all(row is None or t.error[row] <= budget.max_error for t, row in chosen)
            kept = {table.site for table, row in chosen if row is None}
            assert set(selection.reasons) == kept and all(selection.reasons.values())
    assert worked > 0


GENERATOR_REASONS = (
    "saves parameters, no multiply-adds", "saves no time", "shared by all", "saves none",
    "channel slices", "out of reach", "needs a keep ratio", "leaves room",
)  # fmt: skip


def _convolutions() -> Inspection:
    """Returns an inspection of four convolutions that slices of 4 x 4 x 3 x 3 divide."""
    rng = np.random.default_rng(0)
    places = (Geometry(padding="SAME", input_size=(6, 6)),)
    basis = rng.standard_normal((3, 144))  # the slices are near each other's
    kernels = [
        (rng.standard_normal((8, 3)) @ basis + 0.3 * rng.standard_normal((8, 144)))
        .reshape(2, 4, 3, 3, 4, 4).transpose(2, 3, 0, 4, 1, 5).reshape(3, 3, 8, 16)
        for _ in range(4)
    ]  # fmt: skip
    sites = tuple(
        Site(f"conv_{i}", "conv2d", kernel.astype(np.float32), places)
        for i, kernel in enumerate(kernels)
    )
    params = sum(site.cost.params for site in sites)
    return Inspection(sites, (), params, 4 * params)


@pytest.mark.parametrize("name", registry.SELECTORS)
def test_a_selector_chooses_the_code_size_of_a_generator_or_refuses_with_a_reason(name):
    inspection = _convolutions()
    options = CandidateOptions(slice_shape=(4, 4, 3, 3))
    worked = 0
    for budget in BUDGETS:
        try:
            config = CompressionConfig(budget, name, ("slice_generator",), candidates=options)
            plan = make_plan(inspection, config, SpectrumCache())
        except UserError as refusal:
            message = str(refusal)
            assert any(reason in message for reason in GENERATOR_REASONS), (budget, message)
            assert set(re.findall(r"--[a-z_]+", message)) <= _flags(), message
            assert "\n" not in message and "--rank_multiple" not in message
            continue
        worked += 1
        made = [v for v in plan.verdicts if v.choice is not None]
        assert [v.site for v in made] == ["conv_1", "conv_2", "conv_3"]
        assert len({v.choice.settings["code_size"] for v in made}) == 1
        if budget.keep is not None:
            spent = sum(getattr(v.after, budget.kind) for v in plan.verdicts)
            assert spent <= budget.keep * getattr(inspection.cost, budget.kind)
        else:
            assert max(v.error for v in made) <= budget.max_error
    no_choice = ("greedy", "latency", "alds_error", "alds_simple", "svd_error")
    assert (worked > 0) == (name not in no_choice)


@pytest.mark.parametrize(
    ("filters", "made"),
    [
        ({}, {1, 2, 3}),
        ({"include": "conv_[02]"}, {0, 2}),
        ({"exclude": "conv_2"}, {1, 3}),
        ({"include": "conv", "exclude": "conv_3"}, {0, 1, 2}),
    ],
)
def test_kernels_are_generated_but_for_the_first_and_those_left_out(filters, made):
    config = CompressionConfig(
        Budget("params", max_error=0.5), decompositions=("slice_generator",),
        candidates=CandidateOptions(slice_shape=(4, 4, 3, 3)), **filters,
    )  # fmt: skip
    plan = make_plan(_convolutions(), config, SpectrumCache())
    assert set(plan.choices) == {f"conv_{i}" for i in made}
    reasons = {v.site: v.reason for v in plan.verdicts if v.choice is None}
    for name, reason in reasons.items():
        first = name == "conv_0" and "include" not in filters
        assert reason == (
            "the first convolution" if first else "left out by --include or --exclude"
        )


@pytest.mark.parametrize(
    ("selector", "budget", "reason"),
    [
        ("greedy", Budget("params", keep=0.6), "greedy scores sites one by one"),
        ("latency", Budget("params", keep=0.6), "latency saves time"),
        ("alds", Budget("macs", keep=0.6), "saves parameters, no multiply-adds"),
        ("alds", Budget("latency", limit=1e6), "saves parameters, no multiply-adds"),
    ],
)
def test_a_generator_says_what_it_does_not_save_and_who_can_not_choose(selector, budget, reason):
    inspection, shape = _convolutions(), SliceShape(4, 4, 3, 3)
    with pytest.raises(UserError, match=reason):
        choose_code_size(inspection.sites, shape, budget, inspection, registry.SELECTORS[selector])


def test_a_bound_on_the_error_means_the_same_for_every_kind_of_cost():
    inspection, shape = _convolutions(), SliceShape(4, 4, 3, 3)
    sizes = {
        choose_code_size(
            inspection.sites, shape, Budget(kind, max_error=0.4), inspection,
            registry.SELECTORS["alds"],
        )
        for kind in KINDS
    }  # fmt: skip
    assert len(sizes) == 1


def test_evbmf_s_settings_reach_the_code_size():
    options = CandidateOptions(slice_shape=(4, 4, 3, 3))
    config = CompressionConfig(
        Budget("params", keep=0.9), "evbmf", ("slice_generator",), candidates=options
    )
    for setting, size in (({"evbmf_floor": 7}, 7), ({"evbmf_weakening": 2.0}, 6)):
        given = dataclasses.replace(config, **setting)
        plan = make_plan(_convolutions(), given, SpectrumCache())
        assert {c.settings["code_size"] for c in plan.choices.values()} == {size}


def test_on_one_shared_curve_alds_takes_the_longest_codes_that_the_budget_admits():
    inspection = _convolutions()
    options = CandidateOptions(slice_shape=(4, 4, 3, 3))
    for kind in ("params", "bytes"):
        config = CompressionConfig(
            Budget(kind, keep=0.6), decompositions=("slice_generator",), candidates=options
        )
        plan = make_plan(inspection, config, SpectrumCache())
        (size,) = {c.settings["code_size"] for c in plan.choices.values()}
        # The first convolution stays; a code takes 144 numbers and one for each of 24 slices.
        assert size == int((0.6 * 4 * 1152 - 1152) // (144 + 24)) == 9
        built = factorize_plan(inspection, plan, SpectrumCache())[1]
        for verdict in plan.verdicts[1:]:
            site = next(s for s in inspection.sites if s.name == verdict.site)
            lost = np.linalg.norm(site.kernel - built[site.name].reconstruct())
            assert verdict.error == pytest.approx(lost / np.linalg.norm(site.kernel), rel=1e-4)


def test_evbmf_finds_the_dimensions_that_stand_out_of_all_slices():
    config = CompressionConfig(
        Budget("params", keep=0.9), "evbmf", ("slice_generator",),
        candidates=CandidateOptions(slice_shape=(4, 4, 3, 3)),
    )  # fmt: skip
    plan = make_plan(_convolutions(), config, SpectrumCache())
    assert {c.settings["code_size"] for c in plan.choices.values()} == {3}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"decompositions": ("svd", "slice_generator")}, "stands alone"),
        ({"metric": "operator"}, "in the metric frobenius"),
        ({"calibration": "anchored"}, "not fitted to data"),
        ({"faster": True}, "saves no time"),
        ({"candidates": {"slice_shape": (4, 4)}}, "four numbers"),
    ],
)
def test_what_means_nothing_for_a_generator_is_refused(settings, reason):
    with pytest.raises(UserError, match=reason):
        given = {"decompositions": ("slice_generator",), **settings}
        if "candidates" in given:
            given["candidates"] = CandidateOptions(**given["candidates"])
        CompressionConfig(Budget("params", keep=0.5), **given)


def test_a_plan_refuses_what_its_selector_refuses():
    inspection = Inspection(SITES, (), sum(s.cost.params for s in SITES), 0)
    config = CompressionConfig(Budget("macs", max_error=0.3), "evbmf", candidates=OPTIONS)
    with pytest.raises(UserError, match="needs a keep ratio"):
        make_plan(inspection, config, SpectrumCache())


def test_evbmf_s_settings_reach_it():
    inspection = Inspection(SITES, (), sum(s.cost.params for s in SITES), 0)
    config = CompressionConfig(Budget("params", keep=1.0), "evbmf", candidates=OPTIONS)
    plain = make_plan(inspection, config, SpectrumCache())
    floored = make_plan(inspection, dataclasses.replace(config, evbmf_floor=2), SpectrumCache())
    # The kernels are noise: EVBMF finds no rank in them, and a floor takes its place.
    assert not plain.choices and floored.choices
    with pytest.raises(UserError, match="weakening > 0"):
        dataclasses.replace(config, evbmf_weakening=0.0)
