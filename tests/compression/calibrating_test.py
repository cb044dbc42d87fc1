"""Calibrated compressions of SavedModels and Keras models, from data to the result."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from tests.corpus import saved_models, saved_models_keras
from tests.corpus.building import CORPUS
from tfapprox import Budget, CandidateOptions, CompressionConfig, UserError
from tfapprox.compression import compress_model, compress_saved_model, plan_saved_model
from tfapprox.config import CALIBRATIONS
from tfapprox.serving.cc_loader import CcSession

assert saved_models and saved_models_keras  # they fill the corpus

HALF = CompressionConfig(
    Budget("macs", keep=0.5), candidates=CandidateOptions(rank_multiple=2, schemes=(0, 3))
)


def _images(count, seed=0):
    """Returns images with neighbours alike, as photographs have, so that few directions count."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, 10, 10, 3)).astype(np.float32)
    return noise.cumsum(axis=1).cumsum(axis=2) / 10 + 1


@pytest.fixture(scope="module", name="model")
def _model():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((10, 10, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(inputs)
    y = layers.Conv2D(16, 3, padding="same", use_bias=False, name="second")(x)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Conv2D(24, 3, strides=2, activation="relu", name="third")(x)
    outputs = layers.Dense(10, name="head")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


@pytest.fixture(scope="module", name="saved")
def _saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibrating") / "model"
    model.export(str(path), verbose=False)
    return path


def _error(got, want):
    return float(np.linalg.norm(got - want) / np.linalg.norm(want - want.mean(axis=0)))


def _errors_by_calibration(compress, want):
    return {kind: _error(compress(kind), want) for kind in CALIBRATIONS}


def test_calibrating_a_keras_model_brings_held_back_outputs_closer(model):
    data, held = _images(96), _images(32, seed=1)

    def compress(kind):
        config = dataclasses.replace(HALF, calibration=kind)
        small, report = compress_model(model, config, calibration_data=data)
        assert report.plan.settings["metric"] == ("operator" if kind == "none" else "covariance")
        return small(held).numpy()

    errors = _errors_by_calibration(compress, model(held).numpy())
    assert errors["symmetric"] < 0.6 * errors["none"]
    assert errors["anchored"] < errors["symmetric"]
    assert errors["rectified"] < errors["anchored"]


def test_calibrating_a_saved_model_does_the_same_and_both_loaders_run_it(saved, model, tmp_path):
    data, held = {"image": _images(96)}, _images(32, seed=1)

    def compress(kind):
        config = dataclasses.replace(HALF, calibration=kind)
        report = compress_saved_model(
            saved, tmp_path / kind, config, calibration_data=data, batch_sizes=()
        )
        with CcSession(str(tmp_path / kind)) as session:
            (outputs,) = session.run({"image": held}, "serving_default").values()
        loaded = tf.saved_model.load(str(tmp_path / kind)).signatures["serving_default"]
        (again,) = loaded(image=tf.constant(held)).values()
        np.testing.assert_allclose(outputs, again.numpy(), rtol=1e-3, atol=1e-4)
        if kind != "none":
            assert report.plan.settings["calibration"] == kind
            assert report.seconds["calibrating"] > 0
        return outputs

    errors = _errors_by_calibration(compress, model(held).numpy())
    assert errors["symmetric"] < 0.6 * errors["none"]
    assert errors["anchored"] < errors["symmetric"]
    assert errors["rectified"] < errors["anchored"]


def test_the_error_of_the_plan_is_that_of_the_output_on_the_calibration_data(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(30, name="only")])
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((4000, 40)) @ rng.standard_normal((40, 40))).astype("f4") + 3
    config = dataclasses.replace(HALF, metric="covariance")
    small, report = compress_model(model, config, calibration_data=data)
    (verdict,) = report.plan.verdicts
    lost = small(data).numpy() - model(data).numpy()
    assert abs(lost.mean(axis=0)).max() < 1e-3 * lost.std()  # the bias is corrected
    want = model(data).numpy()
    assert verdict.error == pytest.approx(_error(small(data).numpy(), want), rel=0.02)


def test_without_bias_correction_the_mean_is_fitted_as_well():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(30, use_bias=False)])
    data = np.random.default_rng(0).standard_normal((500, 40)).astype("f4") + 3
    config = dataclasses.replace(HALF, correct_bias=False)
    small, report = compress_model(model, config, calibration_data=data)
    assert not small.layers[-1].use_bias
    want = model(data).numpy()
    relative = np.linalg.norm(small(data).numpy() - want) / np.linalg.norm(want)
    assert report.plan.verdicts[0].error == pytest.approx(relative, rel=0.05)


@pytest.mark.parametrize("kind", ["symmetric", "anchored"])
@pytest.mark.parametrize("name", ["nested_calls_with_different_kernels", "while_loop"])
def test_sites_in_nested_functions_and_loops_are_calibrated(name, kind, tmp_path):
    inputs = CORPUS[name].build(tmp_path / "model")
    rng = np.random.default_rng(0)
    shape = inputs["x"].shape[1:]
    data = (rng.standard_normal((400, 6)) @ rng.standard_normal((6, *shape))).astype("f4")
    config = dataclasses.replace(HALF, calibration=kind)
    plan = plan_saved_model(tmp_path / "model", config, calibration_data={"x": data})
    assert plan.settings["metric"] == "covariance"

    def run(path, settings):
        report = compress_saved_model(
            tmp_path / "model", path, settings, calibration_data={"x": data}, batch_sizes=()
        )
        with CcSession(str(path)) as session:
            return session.run({"x": data}, "serving_default")["y"], report

    with CcSession(str(tmp_path / "model")) as session:
        want = session.run({"x": data}, "serving_default")["y"]
    blind, _ = run(tmp_path / "blind", dataclasses.replace(HALF, calibration="none"))
    fitted, report = run(tmp_path / "fitted", config)
    assert report.replaced
    assert _error(fitted, want) < 0.6 * _error(blind, want)


def test_data_that_are_not_finite_are_refused(saved):
    images = _images(8)
    images[3, 2, 1] = np.nan
    with pytest.raises(UserError, match="not finite on the calibration data"):
        plan_saved_model(saved, HALF, calibration_data={"image": images})


def test_metrics_of_the_data_are_refused_without_data(saved, tmp_path):
    config = dataclasses.replace(HALF, metric="covariance")
    with pytest.raises(UserError, match="metric covariance needs calibration data"):
        compress_saved_model(saved, tmp_path / "out", config, batch_sizes=())


def test_ranks_may_be_chosen_by_the_kernel_and_fitted_to_data(model):
    config = dataclasses.replace(HALF, metric="operator")
    data = _images(64)
    blind, _ = compress_model(model, config)
    fitted, report = compress_model(model, config, calibration_data=data)
    assert report.plan.settings["metric"] == "operator"
    want = model(data).numpy()
    assert _error(fitted(data).numpy(), want) < 0.7 * _error(blind(data).numpy(), want)


def test_a_plan_made_before_is_fitted_to_data_too(saved, tmp_path):
    plan = plan_saved_model(saved, HALF)
    data = {"image": _images(64)}
    report = compress_saved_model(
        saved, tmp_path / "out", HALF, plan=plan, calibration_data=data, batch_sizes=()
    )
    assert report.plan.choices == plan.choices
    assert report.plan.settings["calibration"] == "symmetric"


def test_the_mahalanobis_metric_counts_entries_by_their_gradients(saved, model, tmp_path):
    data = _images(32)
    config = dataclasses.replace(
        HALF, metric="mahalanobis", budget=Budget("macs", keep=0.7), selector="lrank"
    )
    report = compress_saved_model(
        saved, tmp_path / "out", config, calibration_data={"image": data}, batch_sizes=()
    )
    assert report.plan.settings["metric"] == "mahalanobis"
    _, again = compress_model(model, config, calibration_data=data)
    # Sites have other names there; both read the same gradients.
    errors = [[v.error for v in r.plan.verdicts] for r in (report, again)]
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-3, atol=1e-5)
