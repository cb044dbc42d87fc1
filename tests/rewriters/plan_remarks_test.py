"""A last layer that is cut to next to nothing is told of, with the way out."""

import dataclasses
import re

import pytest

from tfapprox.accounting.cost import Cost
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.rewriters.plan_remarks import plan_remarks
from tfapprox.selection.problem import Configuration


def _verdict(site, shape, rank):
    choice = None
    if rank:
        choice = Configuration("svd", {"scheme": 0, "slices": 1, "rank": rank})
    return Verdict(site, "dense", shape, choice, "" if choice else "kept", 0.5, Cost(9), Cost(3))


@pytest.mark.parametrize(
    ("shape", "rank", "starved"),
    [
        ((1, 1, 64, 10), 1, True),
        ((1, 1, 64, 10), 3, False),
        ((1, 1, 64, 10), 0, False),  # dense
        ((1, 1, 16, 10_000), 8, False),  # many outputs, but of few inputs
        ((3, 3, 4, 100), 9, True),  # taps are inputs, too
        ((1, 1, 64, 1), 1, False),
    ],
)
def test_the_last_site_is_told_of_where_its_rank_is_far_below_the_kernel_s(shape, rank, starved):
    remarks = plan_remarks(
        Plan((_verdict("body", (1, 1, 64, 64), 1), _verdict("head", shape, rank)))
    )
    assert len(remarks) == starved
    if starved:
        assert f"rank {rank} (error 0.5)" in remarks[0] and "\n" not in remarks[0]


@pytest.mark.parametrize(
    ("settings", "rank"),
    [
        ({"slices": 4, "rank": 1}, None),
        ({"slices": 2, "rank": 1}, 2),
        ({"groups_in": 16, "groups_out": 2, "rank": 1}, None),
        ({"groups_in": 1, "groups_out": 2, "rank_in": 1, "rank_out": 2}, 2),
    ],
)
def test_ranks_of_slices_and_clusters_add_up(settings, rank):
    verdict = dataclasses.replace(
        _verdict("head", (1, 1, 64, 10), 1), choice=Configuration("any", settings)
    )
    remarks = plan_remarks(Plan((verdict,)))
    assert len(remarks) == (rank is not None)
    assert all(f"by rank {rank} (" in remark for remark in remarks)


def test_data_that_were_given_are_not_asked_for():
    verdicts = (_verdict("head", (1, 1, 64, 10), 1),)
    (without,) = plan_remarks(Plan(verdicts))
    (fitted,) = plan_remarks(Plan(verdicts, {"calibration_data": "digest"}))
    assert "--calibration_data" in without and "--calibration_data" not in fitted


def test_a_site_that_others_follow_is_not_told_of():
    plan = Plan((_verdict("body", (1, 1, 64, 64), 1), _verdict("head", (1, 1, 64, 10), 0)))
    assert plan_remarks(plan) == () == plan_remarks(Plan(()))


def test_the_way_out_names_the_site_and_no_other():
    (remark,) = plan_remarks(Plan((_verdict("a.b (x)", (1, 1, 64, 10), 1),)))
    pattern = re.search(r"--exclude '(.*?)'", remark).group(1)
    assert re.search(pattern, "a.b (x)") and not re.search(pattern, "aXb (x)")
