"""The compression table: every cell measured once, every failure told, networks trained once."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from experiments import compression_cells, fashion_networks
from experiments.compression_cells import Laboratory
from experiments.compression_methods import METHODS, Method, Settings
from experiments.compression_page import table
from experiments.compression_subjects import own_subject
from experiments.compression_table import run
from experiments.fashion_networks import NETWORKS, Network, examples, trained
from experiments.images import to_unit
from experiments.models.mnist_cnn import mnist_cnn
from tfapprox.errors import UserError

SETTINGS = Settings(
    keeps=(0.5, 0.01),
    methods=("uniform svd", "alds, calibrated"),
    refined=(),
    distilled=("alds, calibrated",),
    distill_steps=8,
    batch_sizes=(1,),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of the user's own, with inputs."""
    rng = np.random.default_rng(0)

    class Net(tf.Module):
        def __init__(self):
            self.first = tf.Variable(rng.standard_normal((32, 48)).astype(np.float32) / 6)
            self.second = tf.Variable(rng.standard_normal((48, 16)).astype(np.float32) / 7)

        @tf.function(input_signature=[tf.TensorSpec([None, 32], tf.float32, name="x")])
        def serve(self, x):
            return {"y": tf.nn.relu(x @ self.first) @ self.second}

    net = Net()
    path = tmp_path_factory.mktemp("own") / "tiny"
    tf.saved_model.save(net, str(path / "model"), signatures={"serving_default": net.serve})
    spread = np.exp(-np.arange(32) / 6)
    x = (rng.standard_normal((120, 32)) * spread).astype(np.float32)
    np.savez(path / "inputs.npz", x=x)
    return path


def test_the_table_has_every_cell_and_measures_none_twice(folder, tmp_path, monkeypatch):
    subject = own_subject(folder)
    assert len(subject.held_back["x"]) == 36 and len(subject.calibration["x"]) == 84
    results = run([subject], SETTINGS, tmp_path)
    (cells,) = (result["cells"] for result in results)
    assert [(c["method"], c["keep"]) for c in cells] == [
        (method, keep) for keep in SETTINGS.keeps for method in SETTINGS.methods
    ]
    uniform, calibrated, *failed = cells
    assert all("out of reach" in cell["failure"] for cell in failed)
    assert calibrated["error"] < uniform["error"] and calibrated["macs"] <= 0.5
    assert calibrated["distilled"]["error"] <= calibrated["error"]
    page = table(results, SETTINGS, "a test machine")
    assert "| 0.5 | alds, calibrated |" in page and "is the least" in page
    exact = [one for one in results[0]["objectives"] if "failure" not in one]
    assert exact and all(one["alds"] <= one["alds_alternating"] + 1e-9 for one in exact)

    def unexpected(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(Laboratory, "_measure", unexpected)
    monkeypatch.setattr(compression_cells, "train", unexpected)
    again = run([subject], SETTINGS, tmp_path)
    assert again[0]["cells"] == cells
    assert json.loads((tmp_path / "results.json").read_text()) == again
    wider = dataclasses.replace(SETTINGS, keeps=(0.5, 0.7))
    (there,) = run([subject], wider, tmp_path, measure=False)
    assert there["cells"] == cells[:2] and there["latencies"] == results[0]["latencies"]
    with pytest.raises(UserError, match="has results of seed=0, not of 1"):
        run([subject], dataclasses.replace(SETTINGS, seed=1), tmp_path)


def test_what_needs_an_idle_machine_is_left_for_a_later_run(folder, tmp_path, monkeypatch):
    subject = own_subject(folder)
    timed = "latency of milliseconds, calibrated"
    settings = dataclasses.replace(
        SETTINGS, keeps=(0.9,), methods=("uniform svd", timed), distilled=()
    )
    monkeypatch.setattr(compression_cells, "time_original", None)
    monkeypatch.setattr(
        compression_cells, "measure_latencies", lambda s, paths, *_: {k: {} for k in paths}
    )
    (first,) = run([subject], settings, tmp_path, timing=False)
    assert [cell["method"] for cell in first["cells"]] == ["uniform svd"]
    assert first["latencies"] == {}

    def time_original(*_):
        raise UserError("timed")

    monkeypatch.setattr(compression_cells, "time_original", time_original)
    (second,) = run([subject], settings, tmp_path)
    assert second["cells"][0] == first["cells"][0]
    assert second["cells"][1]["failure"] == "timed"
    assert set(second["latencies"]) == {"original", "uniform svd-0.9"}


def test_a_large_model_is_measured_by_the_main_methods_and_few_inputs_are_not_learnt(
    folder, tmp_path, monkeypatch
):
    whole = own_subject(folder)
    few = {key: value[:8] for key, value in whole.calibration.items()}
    subject = dataclasses.replace(whole, calibration=few)
    settings = dataclasses.replace(
        SETTINGS, keeps=(0.6,), methods=("uniform svd", "energy"), distilled=("uniform svd",)
    )
    monkeypatch.setattr(compression_cells, "LARGE", 1000)
    (result,) = run([subject], settings, tmp_path, timing=False)
    (cell,) = result["cells"]
    assert cell["method"] == "uniform svd" and "distilled" not in cell
    assert result["objectives"] == [{"keep": 0.6}]
    slow = Method("energy", most_params=1000)
    monkeypatch.setitem(METHODS, "energy", slow)
    monkeypatch.setattr(compression_cells, "LARGE", 10**9)
    laboratory = Laboratory(subject, settings, tmp_path / "cells" / subject.name)
    assert laboratory.methods(timing=True) == ["uniform svd"]
    monkeypatch.setitem(METHODS, "energy", dataclasses.replace(slow, most_params=10_000))
    assert laboratory.methods(timing=True) == ["uniform svd", "energy"]


def test_refined_factors_are_nearer_to_the_original_and_their_cell_stays(folder, tmp_path):
    settings = dataclasses.replace(
        SETTINGS, keeps=(0.4,), methods=("alds",), refined=("alds",), refine_steps=40, distilled=()
    )
    (result,) = run([own_subject(folder)], settings, tmp_path, timing=False)
    (cell,) = result["cells"]
    assert cell["refined"]["error"] < cell["error"]
    paths = [tmp_path / "cells" / "tiny" / name for name in ("alds-0.4", "alds-0.4-refined")]
    laboratory = Laboratory(own_subject(folder), settings, paths[0].parent)
    assert [laboratory.judge(path)["error"] for path in paths] == [
        cell["error"], cell["refined"]["error"],
    ]  # fmt: skip


def test_unknown_methods_are_refused():
    with pytest.raises(UserError, match="unknown method 'magic'"):
        Settings(methods=("magic",))
    assert all(m.config(0.5, SETTINGS).budget.keep == 0.5 for m in METHODS.values())
    assert compression_cells._slug("alds+") != compression_cells._slug("alds")


def test_a_network_is_trained_once_and_judged_by_images_it_never_saw(tmp_path, monkeypatch):
    tiny = Network(lambda s: mnist_cnn((2, 4), 8, input_shape=s), None, to_unit, 64, 1, 32, 1e-3)
    monkeypatch.setitem(NETWORKS, "tiny", tiny)
    path = trained("tiny", tmp_path / "tiny", "synthetic", "")
    assert (path / "saved_model.pb").exists()
    monkeypatch.setattr(fashion_networks.harness, "train", None)
    assert trained("tiny", tmp_path / "tiny", "synthetic", "") == path
    found = examples("tiny", "synthetic", "", 8, 5)
    assert found.calibration.shape == (8, 28, 28, 1) and len(found.labels) == 5
    assert found.held_back.dtype == np.float32 and found.held_back.max() <= 1
    with pytest.raises(UserError, match="unknown network"):
        trained("huge", tmp_path, "synthetic", "")
