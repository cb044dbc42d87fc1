"""`tfapprox verify`: agreement passes, difference fails with status 1, bad input with 2."""

import json

import numpy as np


def test_model_agrees_with_itself(tfapprox_run, model, inputs):
    status, out, err = tfapprox_run(
        "verify", "--dir", model, "--against", model, "--inputs", inputs
    )
    assert (status, err) == (0, "")
    assert "serving_default: y" in out


def test_difference_beyond_the_limit_fails(tfapprox_run, model, other_model):
    status, out, err = tfapprox_run("verify", "--dir", other_model, "--against", model, "--json")
    assert status == 1
    assert json.loads(out)["passed"] is False
    assert err.startswith("tfapprox: error: ") and err.count("\n") == 1


def test_limit_is_the_users(tfapprox_run, model, other_model):
    flags = ("--dir", other_model, "--against", model, "--max_relative_error", "100")
    assert tfapprox_run("verify", *flags)[0] == 0


def test_bad_input_is_refused(refused, model, tmp_path):
    both = ("--dir", model, "--against", model)
    assert "not a SavedModel" in refused("verify", "--dir", tmp_path, "--against", model)
    assert "nope" in refused("verify", "--dir", "/nope", "--against", model)
    assert "serving_default" in refused("verify", *both, "--signature_def", "predict")
    assert "gpu" in refused("verify", *both, "--tag_set", "gpu")
    assert "negative" in refused("verify", *both, "--max_relative_error", "-1")
    np.savez(tmp_path / "keys.npz", z=np.zeros((1, 64), np.float32))
    assert "'x'" in refused("verify", *both, "--inputs", tmp_path / "keys.npz")
    np.savez(tmp_path / "shape.npz", x=np.zeros((1, 63), np.float32))
    assert "63" in refused("verify", *both, "--inputs", tmp_path / "shape.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    assert "text.npz" in refused("verify", *both, "--inputs", tmp_path / "text.npz")
