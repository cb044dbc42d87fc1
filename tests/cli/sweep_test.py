"""`tfapprox compress --sweep`: one page for several budgets, and what does not go with it."""

import json

import numpy as np


def test_budgets_are_compared_on_one_page(tfapprox_run, model, inputs, tmp_path):
    labels = np.zeros(16, np.int64)
    np.save(tmp_path / "labels.npy", labels)
    page, target = tmp_path / "page.html", tmp_path / "out"
    flags = (
        *("compress", "--dir", model, "--output_dir", target, "--sweep", "0.4,0.6,0.001"),
        *("--calibration_data", inputs, "--labels", tmp_path / "labels.npy", "--report", page),
    )
    status, out, err = tfapprox_run(*flags, "--json")
    assert (status, err) == (2, "")  # one ratio is out of reach; the others are there
    points = json.loads(out)["points"]
    assert [bool(point["report"]) for point in points] == [False, True, True]
    assert {path.name for path in target.iterdir()} == {"keep_0.4", "keep_0.6"}
    assert 0 <= points[1]["report"]["scores"]["after"] <= 1
    assert "Accuracy against MACs kept" in page.read_text()
    status, out, _ = tfapprox_run(*flags)
    assert status == 2
    assert "keep_0.4 was there already" in out and "✗ keep_0.001" in out
    assert out.splitlines()[-1] == f"written: {target}, {page}"


def test_a_dry_run_measures_and_keeps_no_model(tfapprox_run, model, tmp_path):
    status, out, _ = tfapprox_run(
        *("compress", "--dir", model, "--sweep", "0.5", "--sweep_kind", "params", "--dry_run"),
        *("--report", tmp_path / "page.html"),
    )
    assert status == 0 and "keep_0.5" in out and "Speed, batch 8" in out
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_flags_of_a_single_budget_are_refused(refused, model, tmp_path):
    start = ("compress", "--dir", model, "--output_dir", tmp_path / "x", "--sweep", "0.5")
    assert "--save_plan is for one budget" in refused(*start, "--save_plan", tmp_path / "p")
    assert "--tensorboard is for one budget" in refused(*start, "--tensorboard", tmp_path / "log")
    assert "not allowed with argument" in refused(*start, "--keep_macs", "0.5")
    assert "give --output_dir" in refused("compress", "--dir", model, "--sweep", "0.5")
    assert "'30' is not a list of shares" in refused(*start[:-1], "30")
