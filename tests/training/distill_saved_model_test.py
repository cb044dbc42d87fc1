"""Distilled SavedModels: nearer to the original, the same in everything else."""

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from tfapprox import Budget, CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.factorizing import factorize_plan
from tfapprox.planning import make_plan
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.rewriters.saved_model.files import SavedModelFiles
from tfapprox.rewriters.saved_model.values import new_variables, write_values
from tfapprox.rewriters.verify import verify_saved_model
from tfapprox.serving.calibration_data import open_calibration_data
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.signature import read_signatures
from tfapprox.training.distill_saved_model import distill_saved_model
from tfapprox.training.distillation_config import DistillationConfig

TAGS = ("serve",)


class Net(tf.Module):
    """Two layers behind one another, one of them with a convolution."""

    def __init__(self, frozen=False):
        rng = np.random.default_rng(0)
        make = tf.constant if frozen else tf.Variable
        self.kernel = make((rng.standard_normal((3, 3, 4, 16)) / 6).astype(np.float32))
        self.dense = make((rng.standard_normal((64, 24)) / 8).astype(np.float32))
        self.bias = tf.Variable(np.ones(24, np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 4], tf.float32, name="x")])
    def serve(self, x):
        h = tf.nn.relu(tf.nn.conv2d(x, self.kernel, 2, "SAME"))
        h = tf.reshape(h, [-1, 64])
        return {"p": tf.nn.softmax(h @ self.dense + self.bias), "index": tf.argmax(h, 1)}


def shrink(module, folder, keep=0.3):
    tf.saved_model.save(module, str(folder / "model"), signatures={"serving_default": module.serve})
    opened = open_saved_model(folder / "model")
    config = CompressionConfig(
        Budget("macs", keep=keep), candidates=CandidateOptions(rank_multiple=1)
    )
    spectra = SpectrumCache()
    plan = make_plan(opened.inspection, config, spectra)
    write_saved_model(opened, factorize_plan(opened.inspection, plan, spectra)[1], folder / "small")
    return folder / "model", folder / "small"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return shrink(Net(), tmp_path_factory.mktemp("distill"))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).standard_normal((60, 4, 4, 4)).astype(np.float32)


def data_for(path, x):
    return open_calibration_data({"x": x}, read_signatures(str(path))["serving_default"], 8)


CONFIG = DistillationConfig(60, learning_rate=0.01)


def test_only_the_factors_change_and_both_loaders_give_the_nearer_outputs(models, x, tmp_path):
    original, small = models
    tuned = tmp_path / "tuned"
    shutil.copytree(small, tuned)
    before = verify_saved_model(str(small), str(original), {"x": x}).relative_error
    result = distill_saved_model(tuned, original, data_for(small, x), CONFIG)
    assert result.loss_after < result.loss_before and result.batches + result.held_back == 8
    verification = verify_saved_model(str(tuned), str(original), {"x": x})
    assert verification.passed and verification.relative_error < 0.8 * before
    assert (tuned / "saved_model.pb").read_bytes() == (small / "saved_model.pb").read_bytes()
    old, new = SavedModelFiles(small, TAGS), SavedModelFiles(tuned, TAGS)
    keys = new_variables(small, original, TAGS)
    assert len(keys) == 4 and set(new.tensor_shapes) == set(old.tensor_shapes)
    for key in old.tensor_shapes:
        assert np.array_equal(old.tensor(key), new.tensor(key)) == (key not in keys), key
    # The fingerprint tells that the checkpoint is another one.
    prints = [tf.saved_model.experimental.read_fingerprint(str(p)) for p in (small, tuned)]
    assert prints[0].checkpoint_hash != prints[1].checkpoint_hash
    assert prints[0].saved_model_checksum == prints[1].saved_model_checksum


def test_a_lone_batch_is_divided(models, x, tmp_path):
    original, small = models
    shutil.copytree(small, tmp_path / "tuned")
    result = distill_saved_model(
        tmp_path / "tuned", original, data_for(small, x[:5]), DistillationConfig(2)
    )
    assert (result.batches, result.held_back) == (1, 1)
    with pytest.raises(UserError, match="make up but one"):
        distill_saved_model(
            tmp_path / "tuned", original, data_for(small, x[:1]), DistillationConfig(2)
        )


def test_constant_factors_are_refused_with_a_reason(x, tmp_path):
    original, small = shrink(Net(frozen=True), tmp_path)
    with pytest.raises(UserError, match="constants of the graph"):
        distill_saved_model(small, original, data_for(small, x), CONFIG)


def test_values_are_written_only_where_they_fit(models, tmp_path):
    _, small = models
    shutil.copytree(small, tmp_path / "copy")
    (key,) = (k for k in SavedModelFiles(small, TAGS).tensor_shapes if k.startswith("bias"))
    write_values(tmp_path / "copy", {key: np.full(24, 2, np.float32)}, TAGS)
    assert SavedModelFiles(tmp_path / "copy", TAGS).tensor(key)[0] == 2
    with CcSession(str(tmp_path / "copy")) as session:
        assert session.run({"x": np.zeros((1, 4, 4, 4), np.float32)})["p"].shape == (1, 24)
    for wrong in ({key: np.ones(23, np.float32)}, {key: np.ones(24)}, {"no": np.ones(1)}):
        with pytest.raises(UserError):
            write_values(tmp_path / "copy", wrong, TAGS)


def test_two_devices_share_each_batch_and_come_to_the_same(models, x, tmp_path):
    original, small = models
    np.savez(tmp_path / "x.npz", x=x[:48])
    script = f"""
        import sys, shutil
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        tf.distribute.MirroredStrategy = lambda: mirrored
        sys.path.insert(0, {str(tmp_path)!r})
        from tfapprox.serving.calibration_data import open_calibration_data
        from tfapprox.serving.signature import read_signatures
        from tfapprox.training.distill_saved_model import distill_saved_model
        from tfapprox.training.distillation_config import DistillationConfig
        sig = read_signatures({str(small)!r})["serving_default"]
        for strategy in ("none", "mirrored"):
            target = {str(tmp_path)!r} + "/" + strategy
            shutil.copytree({str(small)!r}, target)
            data = open_calibration_data({str(tmp_path / "x.npz")!r}, sig, 8)
            config = DistillationConfig(12, 0.01, strategy=strategy)
            print(distill_saved_model(target, {str(original)!r}, data, config).loss_after)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    alone, shared = (float(line) for line in done.stdout.split())
    assert shared == pytest.approx(alone, rel=1e-4)
    files = [SavedModelFiles(tmp_path / name, TAGS) for name in ("none", "mirrored")]
    for key in new_variables(small, original, TAGS):
        a, b = (f.tensor(key) for f in files)
        np.testing.assert_allclose(a, b, atol=2e-4)
