"""`tfapprox verify`: agreement passes, difference fails with status 1, bad input with 2."""

import json
from pathlib import Path

import numpy as np
import pytest

from tfapprox.serving.cc_loader import CcSession

GPUS = list(Path("/dev").glob("nvidia[0-9]*"))


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


@pytest.fixture(scope="module", name="channels_first")
def _channels_first(tmp_path_factory):
    """Directory of a SavedModel that no CPU runs."""
    import tensorflow as tf

    module = tf.Module()
    rng = np.random.default_rng(0)
    module.kernel = tf.Variable(rng.standard_normal((3, 3, 16, 16)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 6, 6], tf.float32, name="x")])
    def serve(x):
        return {"y": tf.nn.conv2d(x, module.kernel, 1, "SAME", data_format="NCHW")}

    path = tmp_path_factory.mktemp("channels_first") / "model"
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    return str(path)


def test_what_only_a_gpu_runs_is_said_to_be_that_and_can_be_written_unrun(
    tfapprox_run, channels_first, tmp_path
):
    if GPUS:
        pytest.skip("here it runs")
    flags = ("--dir", channels_first, "--output_dir", tmp_path / "small", "--keep_macs", "0.5")
    for command in (("verify", *flags[:2], "--against", channels_first), ("compress", *flags)):
        status, _, err = tfapprox_run(*command)
        assert status == 1 and "channels first (NCHW)" in err and err.count("\n") == 1
    assert not (tmp_path / "small").exists()
    assert tfapprox_run("compress", *flags, "--dont_run")[0] == 0
    # It loads there; it only can't run on a CPU.
    CcSession(str(tmp_path / "small")).close()


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
