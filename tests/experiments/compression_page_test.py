"""The page of the compression table: what was measured, what failed, and what people added."""

import dataclasses

from experiments.compression_methods import Settings
from experiments.compression_page import findings_of, table

SETTINGS = Settings(keeps=(0.5,), methods=("uniform svd", "alds, calibrated"), batch_sizes=(1,))


def _cell(method, error, **more):
    costs = {"params": 0.5, "macs": 0.49, "bytes": 0.51}
    return {"method": method, "keep": 0.5, "error": error, "accuracy": 0.75, **costs, **more}


def _result(cells, labelled=True, latencies=None):
    return {
        "model": "net", "original": {"error": 0.0, "accuracy": 0.9}, "labelled": labelled,
        "calibration": 8, "held_back": 4, "cells": cells, "latencies": latencies or {},
        "objectives": [{"keep": 0.5, "alds": 0.25, "alds_alternating": 0.5}, {"keep": 0.2}],
    }  # fmt: skip


def test_errors_are_set_against_those_of_uniform_svd_with_and_without_distillation():
    uniform = _cell("uniform svd", 0.8, distilled={"error": 0.4, "accuracy": 0.8})
    calibrated = _cell("alds, calibrated", 0.2, distilled={"error": 0.04, "accuracy": 0.88})
    page = table([_result([uniform, calibrated])], SETTINGS, "a machine")
    assert "| 0.5 | alds, calibrated | 0.200 |  | 0.040 | 75.0 |  | 88.0 | 0.50 | 0.49 |" in page
    assert "| net | 0.5 |  |  | 0.25 | 0.10 |  |  |  |  |" in page
    tiny = table([_result([_cell("uniform svd", 5.7e-5)])], SETTINGS, "a machine")
    assert "| 0.5 | uniform svd | 5.7e-05 |" in tiny
    assert "| net | 0.5 | 0.250 | 0.500 |" in page and "| net | 0.2 |" not in page


def test_a_cell_that_failed_says_why_and_is_compared_with_nothing():
    failed = {"method": "uniform svd", "keep": 0.5, "failure": "keeping 0.5: 0.6 is the least; ask"}
    page = table([_result([failed, _cell("alds, calibrated", 0.2)])], SETTINGS, "a machine")
    assert "| 0.5 | uniform svd | 0.6 is the least |" in page
    assert "| net | 0.5 |  |" not in page


def test_milliseconds_stand_beside_their_cell_and_agreement_where_labels_are_missing():
    latencies = {"original": {"1": 2.0}, "uniform svd-0.5": {"1": 1.25}}
    page = table([_result([_cell("uniform svd", 0.8)], False, latencies)], SETTINGS, "a machine")
    assert "The original takes 2.00 ms at batch 1." in page and "agreement, %" in page
    assert "| 0.51 | 1.25 |" in page and "has an accuracy" not in page


def test_the_page_says_what_the_grid_leaves_out():
    settings = Settings(
        methods=("uniform svd", "latency of milliseconds, calibrated"),
        refined=("alds",), refine_steps=7, distilled=("uniform svd", "alds"),
    )  # fmt: skip
    page = table([], settings, "a machine")
    assert "for *latency of milliseconds, calibrated*, of the milliseconds." in page
    assert "*Refined* (7 steps for every block) are alds." in page
    assert "*Distilled* (as a whole) are uniform svd; alds." in page
    assert "left out for more than" not in page
    many = table([], dataclasses.replace(settings, methods=("alds+",)), "a machine")
    assert "*alds+* is left out for more than 100,000 parameters." in many
    assert "more than 1 G multiply-adds" in page and "fewer than 16 inputs" in page
    plain = table([], dataclasses.replace(SETTINGS, refined=()), "a machine")
    assert "of the milliseconds" not in plain and "*Refined*" not in plain


def test_a_trained_state_stands_in_its_own_column():
    cell = _cell("alds", 0.8, refined={"error": 0.3, "accuracy": 0.85})
    page = table([_result([cell])], SETTINGS, "a machine")
    assert "| error | refined | distilled | accuracy, % | refined | distilled |" in page
    assert "| 0.5 | alds | 0.800 | 0.300 |  | 75.0 | 85.0 |  | 0.50 |" in page


def test_findings_of_people_survive_a_new_page(tmp_path):
    path = tmp_path / "page.md"
    assert findings_of(None) == findings_of(path) == ""
    path.write_text(table([_result([])], SETTINGS, "a machine", "- It *works*.\n- Twice."))
    assert findings_of(path) == "- It *works*.\n- Twice."
    again = table([_result([])], SETTINGS, "another machine", findings_of(path))
    assert "- Twice." in again and "another machine" in again
