"""`tfapprox compress --decompositions slice_generator`."""

import json

import numpy as np
import pytest

from tfapprox.serving.cc_loader import CcSession


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Directory of a SavedModel with a stem and three 3x3 convolutions of 16 channels."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    module = tf.Module()
    shapes = [(3, 3, 3, 16), *[(3, 3, 16, 16)] * 3]
    module.kernels = [tf.Variable((rng.normal(size=s) / 12).astype(np.float32)) for s in shapes]

    @tf.function(input_signature=[tf.TensorSpec([None, 5, 5, 3], tf.float32, name="x")])
    def serve(x):
        for kernel in module.kernels:
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        return {"y": x}

    path = tmp_path_factory.mktemp("slices") / "model"
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    return str(path)


def flags_of(model, target):
    flags = "--decompositions", "slice_generator"
    return "compress", "--dir", model, *flags, "--output_dir", target


def test_a_share_of_the_parameters_is_kept(tfapprox_run, images, tmp_path):
    target = tmp_path / "small"
    command = (*flags_of(images, target), "--keep_params", "0.8", "--json")
    status, out, err = tfapprox_run(*command)
    assert (status, err) == (0, "")
    result = json.loads(out)
    total = 432 + 3 * 2304
    chosen = [site["choice"] for site in result["plan"]["sites"] if site["choice"]]
    assert (
        [c["code_size"] for c in chosen] == 3 * [int((0.8 * total - 432) // (2304 + 3))] == [2] * 3
    )
    assert result["after"]["params"] == 432 + 2 * (2304 + 3)
    assert result["verification"]["failures"] == []
    with CcSession(str(target)) as session:
        assert session.run({"x": np.ones((1, 5, 5, 3), np.float32)})["y"].shape == (1, 5, 5, 16)


def test_an_error_bound_and_slices_are_told_in_words(tfapprox_run, images, tmp_path):
    command = (
        *flags_of(images, tmp_path / "same"),
        "--max_error",
        "0",
        "--include",
        "kernels.[12]",
    )
    status, out, err = tfapprox_run(*command, "--slice_shape", "8,16,3,3")
    assert (status, err) == (0, "")
    words = " ".join(out.split())
    assert "not chosen by" in words and "verified" in words
    status, out, _ = tfapprox_run("inspect", "--dir", tmp_path / "same", "--json")
    plan = json.loads(out)["compressed_by"]
    choice = {"code_size": 4, "out_channels": 8, "in_channels": 16, "height": 3, "width": 3}
    assert status == 0
    assert plan["sites"][1]["choice"] == {"decomposition": "slice_generator", **choice}
    status, out, _ = tfapprox_run(
        "restore", "--dir", tmp_path / "same", "--output_dir", tmp_path / "dense"
    )
    assert status == 0 and out.startswith("dense again: kernels/1, kernels/2")


def test_settings_of_evbmf_reach_the_code_size(tfapprox_run, refused, images, tmp_path):
    # The kernels are noise, in which EVBMF finds no dimension.
    command = (*flags_of(images, tmp_path / "small"), "--keep_params", "1", "--selector", "evbmf")
    assert "nothing to do" in refused(*command)
    status, out, err = tfapprox_run(*command, "--evbmf_floor", "2", "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert [s["choice"]["code_size"] for s in result["plan"]["sites"] if s["choice"]] == [2] * 3
    assert result["plan"]["settings"]["selector"] == "evbmf"


def test_what_makes_no_sense_is_refused(refused, images, tmp_path):
    base = flags_of(images, tmp_path / "small")
    assert "give --keep_params" in refused(*base, "--keep_macs", "0.5")
    assert "shared by all" in refused(*base, "--keep_params=0.8", "--selector=greedy")
    assert "saves none" in refused(*base, "--keep_params=0.8", "--selector=latency")
    assert "channel slices" in refused(*base, "--keep_params=0.8", "--selector=alds_simple")
    assert "needs four numbers" in refused(*base, "--keep_params=0.5", "--slice_shape=3,3")
    asked = (*base, "--keep_params=0.8")
    assert "--objective has no meaning" in refused(*asked, "--objective=latency")
    assert "distribution_strategy" in refused(*asked, "--distribution_strategy=mirrored")
    assert "belongs to --selector evbmf" in refused(*asked, "--evbmf_floor=2")
    assert "not a regular expression" in refused(*base, "--keep_params=0.5", "--include=(")
    both = [word if word != "slice_generator" else "svd,slice_generator" for word in base]
    assert "stands alone" in refused(*both, "--keep_params=0.5")
    other = ("compress", "--dir", images, "--output_dir", tmp_path / "small", "--keep_macs=0.5")
    assert "belongs to --decompositions" in refused(*other, "--slice_shape=16,16,3,3")
