"""`tfapprox benchmark`: both models measured at each batch size."""

import json


def test_each_batch_size_is_measured(tfapprox_run, model, other_model):
    flags = ("--dir", other_model, "--against", model, "--batch_size", "1,3", "--threads", "1")
    status, out, err = tfapprox_run("benchmark", *flags, "--json")
    assert (status, err) == (0, "")
    latency = json.loads(out)["latency"]
    assert [one["batch_size"] for one in latency] == [1, 3]
    assert all(one["threads"] == 1 and one["original"]["p50"] > 0 for one in latency)


def test_bad_input_is_refused(refused, model, inputs, tmp_path):
    both = ("--dir", model, "--against", model)
    assert "127" in refused("benchmark", *both, "--threads", "128")
    assert "not a SavedModel" in refused("benchmark", "--dir", model, "--against", tmp_path)
    assert "missing.npz" in refused("benchmark", *both, "--inputs", tmp_path / "missing.npz")
