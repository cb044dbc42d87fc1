"""Several budgets of one model: what is made, what is taken up again, what is refused."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.compression import sweep as sweeping
from tfapprox.compression.sweep import sweep_saved_model
from tfapprox.config import CompressionConfig
from tfapprox.decompositions import spectra as spectra_module
from tfapprox.errors import UserError, VerificationError
from tfapprox.selection.problem import Budget
from tfapprox.serving.cc_loader import CcSession
from tfapprox.training.distillation_config import DistillationConfig

CONFIG = CompressionConfig(Budget("macs", keep=1.0))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    rng = np.random.default_rng(0)
    net = tf.Module()
    net.kernel = tf.Variable(rng.standard_normal((64, 96)).astype(np.float32))
    spec = tf.TensorSpec([None, 64], name="x")
    serve = tf.function(lambda x: {"y": x @ net.kernel}, input_signature=[spec])
    path = tmp_path_factory.mktemp("sweep") / "model"
    tf.saved_model.save(net, str(path), signatures={"serving_default": serve})
    return path


def run(model, target, ratios, config=CONFIG, **options):
    return sweep_saved_model(model, target, config, ratios, batch_sizes=(), **options)


@pytest.fixture
def made(monkeypatch):
    """Names of the targets that are compressed anew."""
    names = []
    real = sweeping.compress_saved_model

    def compress(source, target, *args, **kwargs):
        names.append(target.name)
        return real(source, target, *args, **kwargs)

    monkeypatch.setattr(sweeping, "compress_saved_model", compress)
    return names


def test_each_ratio_gets_a_model_and_singular_values_are_computed_once(
    model, tmp_path, monkeypatch
):
    computed = []
    real = spectra_module.compute_spectrum

    def compute(site, scheme, slices):
        computed.append((site.name, scheme, slices))
        return real(site, scheme, slices)

    monkeypatch.setattr(spectra_module, "compute_spectrum", compute)
    done = run(model, tmp_path / "out", [0.5, 0.3])
    one_plan = len(set(computed))
    # Once to plan, and then only the basis of what the second ratio chose.
    assert len(computed) <= one_plan + 1
    assert [point.ratio for point in done.points] == [0.3, 0.5]
    x = np.ones((2, 64), np.float32)
    for point, report in done.reports:
        assert report.after.macs <= point.ratio * report.before.macs
        with CcSession(str(tmp_path / "out" / f"keep_{point.ratio:g}")) as session:
            assert session.run({"x": x})["y"].shape == (2, 96)


def test_an_interrupted_sweep_goes_on_where_it_stopped(model, tmp_path, made):
    def interrupt(phase, done, total):
        if phase == "keep_0.5: verifying":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path, [0.3, 0.5], progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["keep_0.3"]
    made.clear()
    done = run(model, tmp_path, [0.3, 0.5])
    assert made == ["keep_0.5"]
    assert [point.resumed for point in done.points] == [True, False]
    run(model, tmp_path, [0.3, 0.5], overwrite=True)
    assert made == ["keep_0.5", "keep_0.3", "keep_0.5"]


def test_what_was_made_otherwise_is_not_taken_up(model, tmp_path):
    run(model, tmp_path, [0.5])
    with pytest.raises(UserError, match="made with another selector: pass --overwrite"):
        run(model, tmp_path, [0.5], dataclasses.replace(CONFIG, selector="energy"))
    os.utime(model / "saved_model.pb")
    with pytest.raises(UserError, match="is newer than"):
        run(model, tmp_path, [0.5])


def test_other_calibration_data_or_another_training_is_not_taken_up(model, tmp_path, made):
    x = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    run(model, tmp_path, [0.5], calibration_data={"x": x})
    # The same numbers, cut into other batches, are the same data.
    again = run(model, tmp_path, [0.5], calibration_data=[x[:3], x[3:]])
    assert made == ["keep_0.5"] and again.points[0].resumed
    with pytest.raises(UserError, match="another calibration_data: pass --overwrite"):
        run(model, tmp_path, [0.5], calibration_data={"x": x + 1})
    with pytest.raises(UserError, match="another calibration_data"):
        run(model, tmp_path, [0.5])
    training = {"calibration_data": {"x": x}, "distillation": DistillationConfig(3)}
    with pytest.raises(UserError, match="another distillation"):
        run(model, tmp_path, [0.5], **training)


def test_data_that_are_only_compared_on_may_change(model, tmp_path, made):
    config = dataclasses.replace(CONFIG, calibration="none")
    x = np.ones((2, 64), np.float32)
    run(model, tmp_path, [0.5], config, calibration_data={"x": x})
    run(model, tmp_path, [0.5], config, calibration_data={"x": 2 * x})
    assert made == ["keep_0.5"]


def test_other_directories_are_left_alone(model, tmp_path):
    (tmp_path / "keep_0.5").mkdir()
    (tmp_path / "keep_0.5" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is no SavedModel"):
        run(model, tmp_path, [0.5], overwrite=True)
    assert (tmp_path / "keep_0.5" / "mine.txt").read_text() == "mine"


def test_a_ratio_out_of_reach_does_not_stop_the_others(model, tmp_path):
    done = run(model, tmp_path, [0.001, 0.5])
    failed, worked = done.points
    assert "out of reach" in failed.failure and not failed.wrong
    assert worked.report is not None
    with pytest.raises(UserError, match=r"no ratio worked; keep_0\.001"):
        run(model, tmp_path, [0.001])


def test_a_failed_verification_is_told_apart(model, tmp_path, monkeypatch):
    real = sweeping.compress_saved_model

    def compress(source, target, config, **options):
        if config.budget.keep == 0.3:
            raise VerificationError("outputs differ")
        return real(source, target, config, **options)

    monkeypatch.setattr(sweeping, "compress_saved_model", compress)
    done = run(model, tmp_path, [0.3, 0.5])
    assert [point.wrong for point in done.points] == [True, False]


def test_without_a_directory_nothing_is_kept(model, tmp_path):
    done = run(model, None, [0.5], evaluate=lambda path: float(os.path.exists(path)))
    ((_, report),) = done.reports
    assert report.destination == "keep_0.5, not kept"
    assert (report.scores.before, report.scores.after) == (1.0, 1.0)
    assert done.destination is None and not list(tmp_path.iterdir())


def test_ratios_must_be_shares(model, tmp_path):
    with pytest.raises(UserError, match=r"shares to keep, in \(0, 1\], got 30"):
        run(model, tmp_path, [30])
    with pytest.raises(UserError, match="at least one ratio"):
        run(model, tmp_path, [])
