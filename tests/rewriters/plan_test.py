"""A plan survives its JSON form, and a damaged one is refused by name."""

import json

import pytest

from tfapprox.accounting.cost import Cost
from tfapprox.errors import UserError
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.selection.problem import Configuration

CHOICE = Configuration("svd", {"scheme": 1, "slices": 2, "rank": 8})
PLAN = Plan(
    (
        Verdict("conv", "conv2d", (3, 3, 8, 16), CHOICE, "", 0.25, Cost(9, 8, 7), Cost(3, 2, 1)),
        Verdict("head", "dense", (1, 1, 16, 10), None, "too small", 0.0, Cost(1), Cost(1)),
    ),
    {"selector": "alds"},
)  # fmt: skip


def test_a_plan_survives_json():
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_only_replaced_sites_are_choices():
    assert PLAN.choices == {"conv": CHOICE}


def test_a_plan_edited_by_hand_may_leave_out_what_is_computed():
    body = json.loads(PLAN.to_json())
    body["sites"] = [
        {"site": "conv", "kernel_shape": [3, 3, 8, 16], "choice": CHOICE.to_json()},
    ]
    assert Plan.from_json(json.dumps(body)).choices == {"conv": CHOICE}


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda body: body.pop("tfapprox_plan"), "not a tfapprox plan"),
        (lambda body: body.update(tfapprox_plan=99), "version 99"),
        (lambda body: body.pop("sites"), "no list 'sites'"),
        (lambda body: body["sites"][0].pop("choice"), "site 0 is malformed.*choice"),
        (lambda body: body["sites"][1].update(kernel_shape=[3]), "site 1 is malformed.*4 entries"),
        (lambda body: body["sites"][0]["choice"].update(rank="many"), "site 0 is malformed"),
        (lambda body: body["sites"].append("conv"), "site 2 is malformed"),
    ],
)
def test_a_damaged_plan_is_refused_by_name(damage, complaint):
    body = json.loads(PLAN.to_json())
    damage(body)
    with pytest.raises(UserError, match="^my.json.*" + complaint) as error:
        Plan.from_json(json.dumps(body), origin="my.json")
    assert "\n" not in str(error.value)


def test_text_that_is_no_json_is_refused():
    with pytest.raises(UserError, match="is not JSON"):
        Plan.from_json("{")
