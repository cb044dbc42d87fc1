"""A last layer that is cut to next to nothing is told of, with the way out."""

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


def test_a_site_that_others_follow_is_not_told_of():
    plan = Plan((_verdict("body", (1, 1, 64, 64), 1), _verdict("head", (1, 1, 64, 10), 0)))
    assert plan_remarks(plan) == () == plan_remarks(Plan(()))


def test_the_way_out_names_the_site_and_no_other():
    (remark,) = plan_remarks(Plan((_verdict("a.b (x)", (1, 1, 64, 10), 1),)))
    pattern = re.search(r"--exclude '(.*?)'", remark).group(1)
    assert re.search(pattern, "a.b (x)") and not re.search(pattern, "aXb (x)")
