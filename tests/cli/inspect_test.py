"""`tfapprox inspect`: every site with its cost, as a table or as JSON."""

import json


def test_sites_are_listed_with_their_costs(tfapprox_run, model):
    status, out, err = tfapprox_run("inspect", "--dir", model, "--json")
    assert (status, err) == (0, "")
    body = json.loads(out)
    shapes = [site["kernel_shape"] for site in body["sites"]]
    assert shapes == [[1, 1, 64, 96], [1, 1, 96, 3]]
    assert body["macs"] == 64 * 96 + 96 * 3


def test_table_names_the_sites(tfapprox_run, model):
    status, out, err = tfapprox_run("inspect", "--dir", model)
    assert (status, err) == (0, "")
    assert "wide" in out and "64 -> 96" in out


def test_signatures_are_shown_with_the_keys_that_inputs_need(tfapprox_run, model):
    _, out, _ = tfapprox_run("inspect", "--dir", model, "--json")
    (signature,) = json.loads(out)["signatures"].values()
    ((key, spec),) = signature["inputs"].items()
    assert spec == {"dtype": "float32", "shape": [None, 64]} and len(signature["outputs"]) == 1
    shown = " ".join(tfapprox_run("inspect", "--dir", model)[1].split())
    assert f"serving_default {key}: float32 [?, 64]" in shown


def test_bad_input_is_refused(refused, model, tmp_path):
    assert "/no/model" in refused("inspect", "--dir", "/no/model")
    assert str(tmp_path) in refused("inspect", "--dir", tmp_path)
    assert "gpu" in refused("inspect", "--dir", model, "--tag_set", "serve,gpu")
    assert "predict" in refused("inspect", "--dir", model, "--signature_def", "predict")
