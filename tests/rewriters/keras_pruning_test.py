"""Channels that go leave a smaller stock model, which computes what the masked one did."""

import dataclasses

import keras as keras_3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfapprox.compression import compress_model
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.factorizing import factorize_plan
from tfapprox.planning import make_plan
from tfapprox.rewriters.keras_channels import trace_channels
from tfapprox.rewriters.keras_cut import cut_keras_model
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.rewriters.plan import Plan
from tfapprox.selection.problem import Budget
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.signature import read_signatures

FLAVOURS = pytest.mark.parametrize("keras", [keras_3, tf_keras], ids=["keras3", "tf_keras"])
METHODS = pytest.mark.parametrize("method", ["ft", "pfp"])


@pytest.fixture(autouse=True)
def fixed_seed():
    keras_3.utils.set_random_seed(0)
    tf_keras.utils.set_random_seed(0)
    yield
    keras_3.backend.clear_session()
    tf_keras.backend.clear_session()


def zoo(keras):
    """A residual stage, a depthwise block, a concatenation, a shared head, Flatten."""
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(image)
    x = trunk = layers.ReLU()(layers.BatchNormalization(name="stem_norm")(x))
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="inner")(x)
    x = layers.Conv2D(8, 1, name="expand")(x)
    x = layers.Add(name="add")([x, layers.AveragePooling2D(2)(trunk)])
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.Activation("relu")(layers.BatchNormalization(name="norm")(x))
    y = layers.Conv2D(5, 1, activation="relu", name="branch")(x)
    x = layers.Concatenate(name="join")([x, y])
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dense(10, activation="tanh", name="hidden")(x)
    outputs = layers.Dense(4, activation="softmax", name="scores")(layers.Dropout(0.2)(x))
    return randomize(keras.Model(image, outputs, name="zoo"))


def randomize(model):
    rng = np.random.default_rng(1)
    model.set_weights([np.abs(rng.normal(size=w.shape)) * 0.3 for w in model.get_weights()])
    return model


def images(count=6):
    return np.random.default_rng(2).normal(size=(count, 8, 8, 3)).astype("float32")


def config(method, keep=0.5, kind="params", **others):
    return CompressionConfig(Budget(kind, keep=keep), decompositions=(method,), **others)


def masked(model, channels, alive):
    """The model with zeros for all that the channels that went away are multiplied by."""
    layers = {layer.name: layer for layer in model.layers}
    for own in channels.layers:
        weights = []
        for weight, axes in zip(layers[own.name].get_weights(), own.axes, strict=True):
            weight = weight.copy()
            for place, axis in enumerate(axes):
                if isinstance(axis, np.ndarray) and own.macs:
                    index = [slice(None)] * weight.ndim
                    index[place] = ~alive[axis]
                    weight[tuple(index)] = 0
            weights.append(weight)
        layers[own.name].set_weights(weights)
    return model


@FLAVOURS
def test_a_cut_model_computes_what_the_one_with_zeros_does(keras):
    model = zoo(keras)
    inspection = inspect_keras_model(model)
    channels = trace_channels(model, inspection)
    rng = np.random.default_rng(3)
    alive = np.array([bool(reason) or rng.random() < 0.6 for reason in channels.frozen])
    small = cut_keras_model(model, channels, alive)
    after = inspect_keras_model(small).cost
    expected = inspection.cost - channels.cost(np.ones_like(alive)) + channels.cost(alive)
    assert (after.params, after.macs) == (expected.params, expected.macs)
    assert [type(x) for x in small.layers] == [type(x) for x in model.layers]
    found = small(images()).numpy()
    np.testing.assert_allclose(found, masked(model, channels, alive)(images()), atol=1e-6)


def test_what_is_tied_is_one_unit_and_outputs_stay():
    model = zoo(keras_3)
    units = trace_channels(model, inspect_keras_model(model)).units
    assert [unit.layers for unit in units] == [
        ("stem", "expand"),
        ("inner",),
        ("branch",),
        ("hidden",),
    ]


@FLAVOURS
@METHODS
@pytest.mark.parametrize("kind", ["params", "macs"])
def test_budgets_are_met_and_verdicts_add_up(keras, method, kind):
    model = zoo(keras)
    small, report = compress_model(model, config(method, 0.5, kind), inputs=images())
    after = inspect_keras_model(small)
    assert getattr(after, kind) <= 0.5 * getattr(inspect_keras_model(model), kind)
    assert (report.after.params, report.after.macs) == (after.params, after.macs)
    assert report.after.params == small.count_params()
    shapes = {site.name: site.kernel.shape for site in after.sites}
    for verdict in report.plan.verdicts:
        shape = shapes[verdict.site]
        assert verdict.after.params == np.prod(shape)
        if verdict.choice is not None:
            assert (verdict.choice.settings["inputs"], verdict.choice.settings["outputs"]) == shape[
                2:
            ]
        else:
            assert verdict.reason
    again, repeated = compress_model(
        model, config(method), plan=Plan.from_json(report.plan.to_json()), inputs=images()
    )
    assert repeated.plan.verdicts == report.plan.verdicts
    np.testing.assert_array_equal(again(images()), small(images()))


def test_a_pruned_model_trains_and_is_served(tmp_path):
    model = keras_3.Sequential(
        [
            keras_3.Input((8, 8, 3)),
            keras_3.layers.Conv2D(8, 3, activation="relu", name="conv"),
            keras_3.layers.GlobalMaxPooling2D(),
            keras_3.layers.Dense(2, name="logits"),
        ]
    )
    small, _ = compress_model(model, config("ft", 0.6))
    assert small.get_layer("conv").filters < 8
    small.compile("sgd", "mse")
    small.fit(images(), np.zeros((6, 2)), verbose=0)
    small.export(tmp_path / "small", verbose=False)
    (key,) = read_signatures(str(tmp_path / "small"))["serving_default"].inputs
    with CcSession(str(tmp_path / "small")) as session:
        (served,) = session.run({key: images()}).values()
    np.testing.assert_allclose(served, small(images()), atol=1e-5)


def test_channels_that_are_read_all_together_stay_with_the_reason():
    layers = keras_3.layers
    x = keras_3.Input((6, 8))
    y = layers.Dense(8, name="before")(x)
    y = layers.LayerNormalization(name="normed")(y)
    y = layers.Dense(8, activation="softmax", name="gate")(y)
    y = layers.Dense(7, activation="relu", name="free")(y)
    model = keras_3.Model(x, layers.Dense(3, name="top")(y))
    _, report = compress_model(model, config("ft", 0.8))
    reasons = {v.site: v.reason for v in report.plan.verdicts}
    assert "normed (LayerNormalization)" in reasons["before"]
    assert "softmax" in reasons["gate"] or not reasons["gate"]
    assert report.plan.choices.keys() == {"free", "top"}


def test_shared_layers_and_models_inside_are_cut_alike():
    layers = keras_3.layers
    inner = keras_3.Sequential(
        [keras_3.Input((6,)), layers.Dense(9, activation="relu", name="wide"), layers.Dense(6)],
        name="inner",
    )
    x = keras_3.Input((6,))
    shared = layers.Dense(6, activation="relu", name="shared")
    y = layers.Dense(6, activation="relu", name="first")(x)
    y = layers.Dense(6, name="into")(shared(shared(y)))
    model = keras_3.Model(x, inner(inner(y)))
    small, report = compress_model(model, config("ft", 0.6))
    assert report.plan.choices.keys() == {
        "first", "shared", "into", "inner/wide", "inner/dense"
    }  # fmt: skip
    assert report.plan.choices["shared"].settings == {"inputs": 4, "outputs": 4}
    assert small(np.ones((2, 6), "float32")).shape == (2, 6)


def test_left_out_sites_keep_their_channels():
    model = zoo(keras_3)
    _, report = compress_model(model, config("ft", 0.8, exclude="hidden"))
    verdict = next(v for v in report.plan.verdicts if v.site == "hidden")
    assert verdict.choice is None or verdict.choice.settings["outputs"] == 10


def test_mistakes_are_told():
    model = zoo(keras_3)
    with pytest.raises(UserError, match="pfp judges channels by data"):
        compress_model(model, config("pfp"))
    with pytest.raises(UserError, match="ft has no error to bound"):
        compress_model(model, CompressionConfig(Budget(max_error=0.1), decompositions=("ft",)))
    with pytest.raises(UserError, match="can't be mixed"):
        CompressionConfig(Budget(keep=0.5), decompositions=("ft", "svd"))
    with pytest.raises(UserError, match="chooses by itself"):
        config("ft", selector="lrank")
    with pytest.raises(UserError, match="out of reach"):
        compress_model(model, config("ft", 0.01))
    with pytest.raises(UserError, match="takes a Keras model"):
        make_plan(inspect_keras_model(model), config("ft"), SpectrumCache())
    _, report = compress_model(model, config("ft"))
    with pytest.raises(UserError, match="takes a Keras model"):
        factorize_plan(inspect_keras_model(model), report.plan, SpectrumCache())
    first = report.plan.verdicts[0]
    wrong = dataclasses.replace(
        first, choice=dataclasses.replace(first.choice, settings={"inputs": 3, "outputs": 99})
    )
    edited = dataclasses.replace(report.plan, verdicts=(wrong, *report.plan.verdicts[1:]))
    with pytest.raises(UserError, match=r"stem|inner|expand"):
        compress_model(model, config("ft"), plan=edited)


def test_a_bound_on_the_sensitivity_takes_what_is_below_it():
    model = zoo(keras_3)
    bound = CompressionConfig(Budget("macs", max_error=0.2), decompositions=("pfp",))
    small, report = compress_model(model, bound, inputs=images())
    assert report.plan.settings["objective"] == 0.2
    assert tf.reduce_all(tf.math.is_finite(small(images())))
