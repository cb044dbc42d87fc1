"""Tests of the sentence on speed."""

import dataclasses

import pytest

from tests.report.conftest import latency, make_report
from tfapprox.accounting.cost import Cost
from tfapprox.report.report import ModelSize
from tfapprox.report.speed import speed_verdict
from tfapprox.rewriters.plan import Plan
from tfapprox.selection.problem import Configuration


def slow_report(macs=(4 * 10**9, 2 * 10**9), milliseconds=100.0, settings=None, site_macs=10**9):
    """A report on a model that did not become faster, for a chosen cause."""
    report = make_report(1, latency=(latency(1, milliseconds, milliseconds),))
    choice = Configuration("svd", settings or {"slices": 1})
    (site,) = report.plan.verdicts
    before, after = Cost(0, site_macs, 0), Cost(0, site_macs // 2, 0)
    site = dataclasses.replace(site, choice=choice, before=before, after=after)
    sizes = [ModelSize(1, count) for count in macs]
    return dataclasses.replace(report, plan=Plan((site,)), before=sizes[0], after=sizes[1])


def test_faster_models_are_said_to_be_by_how_much():
    report = make_report(latency=(latency(8, 9.0, 5.0),))
    assert speed_verdict(report) == ("Measurably faster: 1.80x at batch 8, with 1.33x fewer MACs.")


def test_batch_sizes_that_are_not_faster_are_named():
    assert "Not so (1.03x at batch 1)" in speed_verdict(make_report())


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ({}, "time on memory or on other operations"),
        ({"macs": (4 * 10**9, 39 * 10**8)}, "only 1.03x fewer MACs"),
        ({"milliseconds": 10_000.0}, "0.40 GMAC/s, so the fixed cost of each operation"),
        ({"site_macs": 1000}, "1 of 1 replaced sites are small"),
        ({"settings": {"slices": 4}}, "grouped stages"),
    ],
)
def test_the_cause_is_read_off_the_numbers(cause, words):
    verdict = speed_verdict(slow_report(**cause))
    assert verdict.startswith("Not measurably faster (1.00x at batch 1)")
    assert words in verdict
    others = {"on memory or", "fewer MACs, about", "GMAC/s", "are small", "grouped"}
    assert sum(other in verdict for other in others) == 1


def test_a_plan_that_replaces_nothing_explains_itself():
    report = slow_report()
    site = dataclasses.replace(report.plan.verdicts[0], choice=None)
    report = dataclasses.replace(report, plan=Plan((site,)))
    assert "no site was replaced" in speed_verdict(report)


def test_no_measurement_no_claim():
    assert speed_verdict(make_report(latency=())) == "Speed was not measured."


def test_a_gain_lost_in_noise_is_put_down_to_the_machine():
    noisy = dataclasses.replace(latency(8, 9.0, 5.0), ratio_range=(0.83, 2.03))
    verdict = speed_verdict(make_report(latency=(noisy,)))
    assert verdict.startswith("Not measurably faster (1.80x at batch 8): the machine was too busy")
    assert "0.83x to 2.03x" in verdict
