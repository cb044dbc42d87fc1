"""Tests of the tables for a terminal."""

import dataclasses
import io
import json

import numpy as np
from rich.console import Console

from tests.report.conftest import HOSTILE, make_report
from tfapprox.accounting.cost import Cost
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.report import text
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.inspection import Inspection, KeptOperation
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.selection.problem import Configuration


def printed(function, *args) -> str:
    console = Console(file=io.StringIO(), width=220, color_system=None)
    function(*args, console)
    return console.file.getvalue()


def test_a_report_shows_every_verdict_and_names_as_they_are(report):
    shown = printed(text.print_report, report)
    assert HOSTILE in shown
    for words in ("dense: no candidate is cheaper", "svd scheme=1 slices=1 rank=8", "75.0 %",
                  "✓ verified", "1.80x", "note: a note", "planning 1.2 s"):  # fmt: skip
        assert words in shown


def test_outputs_that_are_far_off_are_remarked_on_though_nothing_failed(report):
    assert "--distill_steps" not in printed(text.print_report, report)
    verification = report.verification
    outputs = [dataclasses.replace(o, relative_error=0.7) for o in verification.outputs]
    far = dataclasses.replace(verification, outputs=tuple(outputs))
    shown = printed(text.print_report, make_report(verification=far))
    assert "✓ verified" in shown and "outputs are off by up to 0.7 of the original's" in shown
    assert "--distill_steps" in shown


def test_a_report_without_measurements_is_printed():
    shown = printed(text.print_report, make_report(verification=None, latency=(), seconds={}))
    assert "Speed was not measured." in shown


def test_a_plan_is_printed_with_a_remark_on_a_starved_last_site():
    choice = Configuration("svd", {"scheme": 0, "slices": 1, "rank": 1})
    head = Verdict("head", "dense", (1, 1, 64, 10), choice, "", 0.4, Cost(640), Cost(74))
    shown = printed(text.print_plan, Plan((head,)))
    assert "note: head, the last site, tells its 10 outputs apart by rank 1" in shown


def test_failures_are_printed():
    failed = Verification("a", "b", "given", 0.1, (), ("signature 'x' is missing",))
    shown = printed(text.print_verification, failed)
    assert "✗ signature 'x' is missing" in shown
    assert "verified" not in shown


def inspection() -> Inspection:
    kernel = np.zeros((3, 3, 4, 8), np.float32)
    uses = (Geometry(padding="SAME", input_size=(10, 10)), Geometry(input_size=(5, 5)))
    site = Site("conv [red]", "conv2d", kernel, uses, assumed_size="32x32")
    kept = KeptOperation("attention", "BatchMatMul", "a product of two activations")
    return Inspection((site,), (kept,), 300, 1200, ("a note",))


def test_an_inspection_shows_sites_totals_and_what_is_kept():
    shown = printed(text.print_inspection, inspection())
    expected = ("conv [red]", "3x3, 4 -> 8", "10x10, 3x3 (2 uses) assumed", "31.4k", "100.0 %")
    for words in (*expected, "a product of two activations", "300 parameters (1.2 kB)", "a note"):
        assert words in shown


def test_an_inspection_is_json_without_its_kernels():
    body = json.loads(json.dumps(text.inspection_to_json(inspection())))
    (site,) = body["sites"]
    assert site["kernel_shape"] == [3, 3, 4, 8]
    assert site["output_sizes"] == [[10, 10], [3, 3]]
    assert site["macs"] == 288 * 109 == body["macs"]
    assert body["kept"][0]["reason"] == "a product of two activations"
