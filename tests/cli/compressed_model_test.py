"""What the commands make of a model that tfapprox compressed."""

import json
import shutil

import numpy as np
import pytest

from tfapprox.cli.main import execute
from tfapprox.rewriters.plan import EXTRA
from tfapprox.serving.cc_loader import CcSession


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("compressed") / "small"
    flags = ("--keep_macs", "0.6", "--slices", "1", "--exclude", "narrow", "--json")
    assert execute(["compress", "--dir", model, "--output_dir", str(out), *flags]) == 0
    return out


def test_inspect_shows_the_plan_inside(tfapprox_run, small):
    status, out, err = tfapprox_run("inspect", "--dir", small)
    assert (status, err) == (0, "")
    assert "Compressed by tfapprox (keep_macs 0.6, selector alds)" in out
    assert "left out by --include or --exclude" in out and "svd" in out
    status, out, _ = tfapprox_run("inspect", "--dir", small, "--json")
    plan = json.loads((small / EXTRA / "plan.json").read_text())
    assert json.loads(out)["compressed_by"] == plan


def test_inspect_of_another_model_says_nothing_of_a_plan(tfapprox_run, model):
    assert "Compressed" not in tfapprox_run("inspect", "--dir", model)[1]
    assert "compressed_by" not in json.loads(tfapprox_run("inspect", "--dir", model, "--json")[1])


def test_a_plan_that_can_t_be_read_is_told_and_does_no_harm(tfapprox_run, small, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    (copy / EXTRA / "plan.json").write_text("{")
    status, out, err = tfapprox_run("inspect", "--dir", copy)
    assert status == 0 and "sites" in out
    assert err.startswith("tfapprox: note: ") and "plan.json is not JSON" in err


def test_restore_writes_a_dense_model_of_the_same_outputs(tfapprox_run, small, inputs, tmp_path):
    command = ("restore", "--dir", small, "--output_dir", tmp_path / "dense", "--inputs", inputs)
    status, out, err = tfapprox_run(*command)
    assert (status, err) == (0, "")
    assert "dense again: wide" in out and "verified" in out
    assert not (tmp_path / "dense" / EXTRA).exists()
    x = np.load(inputs)["x"]
    answers = []
    for path in (small, tmp_path / "dense"):
        with CcSession(str(path)) as session:
            answers.append(session.run({"x": x})["y"])
    np.testing.assert_allclose(*answers, atol=1e-5 * np.abs(answers[0]).max())
    status, out, _ = tfapprox_run(*command, "--overwrite", "--json")
    assert status == 0 and json.loads(out)["verification"]["passed"] is True


def test_restore_refuses_what_it_can_t_undo(refused, model, small, tmp_path):
    assert "nothing to restore" in refused(
        "restore", "--dir", model, "--output_dir", tmp_path / "dense"
    )
    assert "overlaps" in refused("restore", "--dir", small, "--output_dir", small)
    assert "nope" in refused("restore", "--dir", "/nope", "--output_dir", tmp_path / "dense")
    assert not (tmp_path / "dense").exists()
