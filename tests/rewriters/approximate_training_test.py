import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from tfapprox.compression import compress_model
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError
from tfapprox.layers.crs_conv2d import CRSConv2D
from tfapprox.layers.crs_dense import CRSDense
from tfapprox.rewriters import approximate_training as rewriter
from tfapprox.rewriters.approximate_training import (
    ApproximateTrainingConfig,
    annotate,
    approximate_training,
    strip,
)
from tfapprox.sampling.settings import Sampling
from tfapprox.selection.problem import Budget

HALF = Sampling(forward_ratio=0.5)


@pytest.fixture(scope="module")
def model():
    layers = keras.layers
    inputs = keras.Input((10, 10, 20))
    x = layers.Conv2D(32, 3, activation="relu", name="stem")(inputs)
    skip = layers.Conv2D(32, 3, padding="same", name="inner", kernel_regularizer="l2")(x)
    x = layers.Conv2D(32, 3, padding="same", groups=4, name="grouped")(layers.Add()([x, skip]))
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(8, activation=tf.nn.relu, name="narrowing", use_bias=False)(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    model.get_layer("norm").moving_mean.assign(np.linspace(-1, 1, 32))
    model.get_layer("inner").trainable = False
    return model


def images():
    return tf.random.stateless_normal((4, 10, 10, 20), [0, 1])


def reasons(verdicts):
    return {v.layer: v.reason for v in verdicts if not v.sampled}


def test_layers_become_sampled_ones_with_their_weights_and_every_other_gets_a_reason(model):
    sampled, verdicts = approximate_training(model, ApproximateTrainingConfig(HALF))
    assert [v.layer for v in verdicts if v.sampled] == ["inner", "narrowing"]
    why = reasons(verdicts)
    assert "input" in why["stem"]
    assert "4 groups" in why["grouped"]
    assert "8 inputs, fewer than 16" in why["logits"]
    assert type(sampled.get_layer("inner")) is CRSConv2D
    assert type(sampled.get_layer("narrowing")) is CRSDense
    assert sampled.get_layer("inner").kernel_regularizer is not None
    assert not sampled.get_layer("inner").trainable
    np.testing.assert_allclose(sampled(images()), model(images()), rtol=1e-5, atol=1e-6)
    assert not np.allclose(sampled(images(), training=True), model(images(), training=True))


def test_include_exclude_and_input_conv_choose(model):
    config = ApproximateTrainingConfig(
        HALF, include="stem|inner|logits", exclude="inner", input_conv=True, min_width=1
    )
    sampled, verdicts = approximate_training(model, config)
    assert [v.layer for v in verdicts if v.sampled] == ["stem", "logits"]
    assert "include" in reasons(verdicts)["narrowing"]
    assert sampled.get_layer("stem").first_layer
    assert not sampled.get_layer("logits").first_layer


def test_layers_that_do_not_gain_when_measured_stay_exact(model, monkeypatch):
    speedups = {"inner": 1.02, "narrowing": 1.7}
    monkeypatch.setattr(rewriter, "measure_speedup", lambda layer, shape: speedups[layer.name])
    config = ApproximateTrainingConfig(HALF, batch_size=128)
    sampled, verdicts = approximate_training(model, config)
    assert "does not pay: 1.02x at batch 128" in reasons(verdicts)["inner"]
    assert type(sampled.get_layer("inner")) is keras.layers.Conv2D
    assert {v.layer: v.speedup for v in verdicts if v.sampled} == {"narrowing": 1.7}


def test_measuring_times_both_forms_of_a_layer():
    layer = CRSDense(16, sampling=HALF, first_layer=True)
    assert rewriter.measure_speedup(layer, (32, 16)) > 0


def test_strip_gives_stock_layers_that_a_stock_keras_can_load(model, tmp_path):
    sampled, _ = approximate_training(
        model, ApproximateTrainingConfig(Sampling("nps", 0.5, scale=True))
    )
    plain = strip(sampled)
    assert {type(x).__module__.partition(".")[0] for x in plain.layers} == {"keras"}
    assert [x.name for x in plain.layers] == [x.name for x in model.layers]
    np.testing.assert_allclose(plain(images()), sampled(images()), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="no sampled layer"):
        strip(plain)


def test_annotate_keeps_the_configuration():
    layer = annotate(keras.layers.Dense(7, activation="tanh", name="head"), HALF, seed=3)
    assert (type(layer), layer.units, layer.name, layer.seed) == (CRSDense, 7, "head", 3)
    assert layer.activation is keras.activations.tanh
    with pytest.raises(UserError, match="LSTM"):
        annotate(keras.layers.LSTM(4), HALF)


def test_a_shared_layer_stays_shared():
    inputs = keras.Input((32,))
    dense = keras.layers.Dense(32, name="shared")
    model = keras.Model(inputs, dense(dense(inputs)))
    sampled, _ = approximate_training(model, ApproximateTrainingConfig(HALF))
    assert len(sampled.trainable_weights) == 2
    x = tf.random.stateless_normal((4, 32), [0, 1])
    np.testing.assert_allclose(sampled(x), model(x), rtol=1e-5, atol=1e-6)


def test_settings_of_another_kind_are_refused_with_the_call_to_write(model):
    with pytest.raises(UserError, match=r"write ApproximateTrainingConfig\(Sampling"):
        approximate_training(model, HALF)
    with pytest.raises(UserError, match=r"sampling must be a Sampling.*0.5"):
        ApproximateTrainingConfig(0.5)


def test_nothing_eligible_and_subclassed_models_are_refused(model):
    with pytest.raises(UserError, match="passes include"):
        approximate_training(model, ApproximateTrainingConfig(HALF, include="nowhere"))
    with pytest.raises(UserError, match="regular expression"):
        ApproximateTrainingConfig(HALF, include="(")

    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UserError, match="subclassed"):
        approximate_training(Own(), ApproximateTrainingConfig(HALF))


def test_a_model_that_is_still_sampled_is_stripped_before_it_is_compressed(model):
    sampled, _ = approximate_training(model, ApproximateTrainingConfig(HALF))
    most = CompressionConfig(Budget("params", keep=0.8))
    with pytest.raises(UserError, match=r"still sampled \(inner\): strip it first"):
        compress_model(sampled, most)
    small, _ = compress_model(strip(sampled), most)
    assert small.count_params() < model.count_params()
    _, report = compress_model(sampled, dataclasses.replace(most, exclude="inner|narrowing"))
    assert {verdict.site for verdict in report.plan.verdicts} == {"stem", "logits"}
