"""Tests of the report itself."""

import dataclasses
import json

import pytest

from tfapprox.errors import UserError
from tfapprox.report.report import Report, Scores


def through_json(report: Report) -> Report:
    return Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False)))


def test_a_report_survives_json(report):
    assert through_json(report) == report


def test_a_report_without_measurements_survives_json(report):
    bare = dataclasses.replace(report, verification=None, latency=(), spectra=())
    assert through_json(bare) == bare
    scored = dataclasses.replace(report, scores=Scores(0.98, 0.97, "psnr"))
    assert through_json(scored) == scored


def test_replaced_counts_the_sites_with_a_choice(report):
    assert report.replaced == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tfapprox_report": 99}, "version 99"),
        ({"before": {}}, "report is malformed"),
        ({"plan": {}}, "report, plan is not a tfapprox plan"),
        ({"latency": 3}, "report is malformed"),
    ],
)
def test_a_damaged_report_is_refused(report, change, message):
    with pytest.raises(UserError, match=message):
        Report.from_json({**report.to_json(), **change})
    with pytest.raises(UserError, match="not a tfapprox report"):
        Report.from_json({})
