"""Sampled layers, all three kinds by one table."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.crs_conv2d import CRSConv2D
from tfapprox.layers.crs_dense import CRSDense
from tfapprox.layers.crs_einsum_dense import CRSEinsumDense, contracted_axes
from tfapprox.ops.approx_matmul import approx_matmul
from tfapprox.sampling.settings import Sampling

HALF = Sampling(forward_ratio=0.5)
RANDOM = Sampling("nps", 0.5, scale=True)
LAYERS = {
    "dense": (CRSDense, keras.layers.Dense, (6, 32), {"units": 5, "activation": "relu"}),
    "projection": (CRSDense, keras.layers.Dense, (3, 4, 32), {"units": 5, "use_bias": False}),
    "conv2d": (
        CRSConv2D,
        keras.layers.Conv2D,
        (2, 6, 6, 16),
        {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu"},
    ),
    "einsum": (
        CRSEinsumDense,
        keras.layers.EinsumDense,
        (2, 3, 4, 8),
        {"equation": "abcd,cde->abe", "output_shape": (None, 6), "bias_axes": "e"},
    ),
}


def pair(kind, sampling, **more):
    """Returns a sampled layer and its stock twin with equal weights, and an input."""
    sampled_type, stock_type, shape, options = LAYERS[kind]
    sampled, stock = sampled_type(**options, sampling=sampling, **more), stock_type(**options)
    x = tf.random.stateless_normal(shape, [0, 1])
    sampled(x)
    stock(x)
    for ours, theirs in zip(sampled.trainable_weights, stock.trainable_weights, strict=True):
        theirs.assign(ours)
    return sampled, stock, x


@pytest.mark.parametrize("kind", LAYERS)
def test_evaluation_is_the_stock_layers_bit_for_bit_and_training_is_sampled(kind):
    sampled, stock, x = pair(kind, HALF)
    np.testing.assert_array_equal(sampled(x), stock(x))
    np.testing.assert_array_equal(sampled(x, training=False), stock(x))
    assert not np.allclose(sampled(x, training=True), stock(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_training_with_all_ratios_one_is_the_stock_layers_bit_for_bit(kind):
    sampled, stock, x = pair(kind, Sampling())
    np.testing.assert_array_equal(sampled(x, training=True), stock(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_sampling_keeps_bias_activation_and_shape(kind):
    # Half of the pairs are silent: dropping them changes nothing.
    sampled, stock, x = pair(kind, Sampling(forward_ratio=0.5))
    kernel = sampled.kernel.numpy()
    axis = -2 if kind == "conv2d" else 0
    half = kernel.shape[axis] // 2
    silent = [slice(None)] * kernel.ndim
    silent[axis] = slice(half)
    kernel[tuple(silent)] = 0
    for layer in (sampled, stock):
        layer.kernel.assign(kernel)
        if layer.bias is not None:
            layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    np.testing.assert_allclose(sampled(x, training=True), stock(x), atol=1e-5)


def test_einsum_samples_the_flattened_contraction():
    sampled, _, x = pair("einsum", HALF)
    flat = approx_matmul(
        tf.reshape(x, [2, 3, 32]), tf.reshape(sampled.kernel.numpy(), [32, 6]), HALF
    )
    np.testing.assert_allclose(sampled(x, training=True), flat, rtol=1e-6)


@pytest.mark.parametrize(
    "equation, axes",
    [("ab,bc->ac", 1), ("...x,xy->...y", 1), ("abc, cde -> abde", 1), ("abcd,cde->abe", 2)],
)
def test_equations_that_are_one_product_are_understood(equation, axes):
    assert contracted_axes(equation) == axes


@pytest.mark.parametrize("equation", ["abc,abd->acd", "abc,bcd->abd", "ab,bc->ca", "abc,bd->acd"])
def test_other_equations_are_refused(equation):
    with pytest.raises(UserError, match="EinsumDense"):
        contracted_axes(equation)


@pytest.mark.parametrize("kind", ["dense", "conv2d", "einsum"])
def test_save_and_load_round_trip_keeps_settings_weights_and_the_counter_of_draws(kind, tmp_path):
    sampled_type, _, shape, options = LAYERS[kind]
    model = keras.Sequential(
        [keras.Input(shape[1:]), sampled_type(**options, sampling=RANDOM, seed=7)]
    )
    x = tf.random.stateless_normal(shape, [0, 1])
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.layers[-1]
    assert type(layer) is sampled_type
    assert layer.sampling == RANDOM
    assert layer.seed == 7
    assert int(layer.draws.numpy()) == 1
    np.testing.assert_array_equal(loaded(x), model(x))
    np.testing.assert_array_equal(loaded(x, training=True), model(x, training=True))


def test_draws_differ_from_step_to_step_and_between_layers_but_not_between_runs():
    x = tf.random.stateless_normal((4, 64), [0, 1])

    def outputs(name):
        keras.utils.set_random_seed(0)
        layer = CRSDense(
            3, sampling=RANDOM, name=name, kernel_initializer=keras.initializers.Ones()
        )
        return [layer(x, training=True).numpy() for _ in range(2)]

    first, again, other = outputs("a"), outputs("a"), outputs("b")
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[0], first[1])
    assert not np.allclose(first[0], other[0])


def test_a_layer_built_for_top_k_says_how_to_make_it_random():
    layer = CRSDense(3, sampling=HALF, name="narrow")
    x = tf.zeros((4, 64))
    layer(x)
    layer.sampling = RANDOM
    with pytest.raises(UserError, match="narrow"):
        layer(x, training=True)


def test_groups_and_channels_first_are_refused_with_the_reason():
    with pytest.raises(UserError, match="4 groups"):
        CRSConv2D(8, 3, groups=4, sampling=HALF)
    with pytest.raises(UserError, match="channels_last"):
        CRSConv2D(8, 3, data_format="channels_first", sampling=HALF)


def test_fit_trains_under_mixed_precision_and_xla():
    model = keras.Sequential(
        [
            keras.Input((32,)),
            CRSDense(32, activation="relu", sampling=RANDOM, dtype="mixed_bfloat16"),
            CRSDense(2, sampling=HALF),
        ]
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 32)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=True)
    losses = model.fit(x, y, batch_size=64, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]
    # 4 steps in each of 30 epochs.
    assert int(model.layers[0].draws.numpy()) == 120


def test_tf_keras_trains_saves_loads_and_strips_too(tmp_path):
    # The Keras flavour is chosen once a process.
    script = f"""
import os
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, tensorflow as tf
from tensorflow import keras
assert keras.layers.Dense.__module__.startswith("tf_keras")
from tfapprox.layers.crs_dense import CRSDense
from tfapprox.rewriters.approximate_training import (
    ApproximateTrainingConfig, approximate_training, strip)
from tfapprox.sampling.settings import Sampling
model = keras.Sequential([
    keras.Input((8, 8, 4)), keras.layers.Conv2D(16, 3, activation="relu"),
    keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.Flatten(),
    keras.layers.EinsumDense("ab,bc->ac", output_shape=8, bias_axes="c"),
    keras.layers.Dense(3)])
config = ApproximateTrainingConfig(Sampling("nps", 0.5, scale=True), min_width=8)
sampled, verdicts = approximate_training(model, config)
x = np.random.default_rng(0).normal(size=(32, 8, 8, 4)).astype("float32")
np.testing.assert_allclose(sampled(x), model(x), rtol=1e-5, atol=1e-6)
sampled.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
sampled.fit(x, np.arange(32) % 3, batch_size=16, verbose=0)
for name in ("model.keras", "model.h5"):
    path = os.path.join({str(tmp_path)!r}, name)
    sampled.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_allclose(loaded(x), sampled(x), rtol=1e-6)
    assert [type(a) for a in loaded.layers] == [type(a) for a in sampled.layers]
plain = strip(sampled)
assert not any("tfapprox" in type(a).__module__ for a in plain.layers)
np.testing.assert_allclose(plain(x), sampled(x), rtol=1e-6)
print(sum(v.sampled for v in verdicts), "sampled")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "3 sampled" in result.stdout, result.stderr[-3000:]
