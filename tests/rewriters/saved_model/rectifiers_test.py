"""ReLUs behind kernels of a SavedModel: found with all that lies between, or not at all."""

import numpy as np
import pytest
import tensorflow as tf

from tests.corpus.building import activations, export, weights
from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.rewriters.saved_model.rectifiers import rectifier_behind

RNG = np.random.default_rng(0)
BIAS, GAMMA, BETA, MEAN = (RNG.standard_normal(6).astype("f4") for _ in range(4))
VARIANCE = RNG.uniform(0.5, 2, 6).astype("f4")
IMAGES = {"x": activations(2, 5, 5, 3)}


def _found(path, after, inputs=IMAGES, kernel=None):
    """Returns the ReLU that is found behind a convolution (or product) followed by `after`."""
    variable = tf.Variable(weights(3, 3, 3, 6) if kernel is None else kernel, name="kernel")

    def function(x):
        y = tf.nn.conv2d(x, variable, 1, "SAME") if x.shape.rank == 4 else tf.matmul(x, variable)
        return {"y": after(y)}

    export(path / "model", function, inputs, {"kernel": variable})
    opened = open_saved_model(path / "model")
    (used,) = opened.kernels
    return rectifier_behind(used), np.asarray(variable)


def _normalized(y):
    y, *_ = tf.compat.v1.nn.fused_batch_norm(
        y, GAMMA, BETA, MEAN, VARIANCE, epsilon=1e-3, is_training=False
    )
    return y


def _between(after):
    """Returns what is rectified, as the layers between compute it, for some outputs."""
    outputs = np.float32(RNG.standard_normal((2, 5, 5, 6)) * 3)
    return outputs, after(tf.constant(outputs)).numpy()


@pytest.mark.parametrize(
    "after",
    [
        tf.nn.relu,
        lambda y: tf.nn.relu(tf.nn.bias_add(y, BIAS)),
        lambda y: tf.nn.relu6(_normalized(tf.nn.bias_add(y, BIAS))),
        lambda y: tf.nn.relu(tf.nn.batch_normalization(y, MEAN, VARIANCE, BETA, GAMMA, 1e-3)),
        lambda y: tf.nn.relu(BIAS - y / 2),
        lambda y: tf.nn.relu(tf.identity(y) * 3),
    ],
    ids=["alone", "bias", "bias, normalization, ReLU6", "normalization", "from a bias", "scaled"],
)
def test_the_rectifier_does_what_lies_behind_the_site(after, tmp_path):
    found, _ = _found(tmp_path, after)
    outputs, responses = _between(after)
    np.testing.assert_allclose(found.respond(outputs), responses, rtol=1e-4, atol=1e-4)


def test_a_product_on_sequences_finds_its_relu_behind_the_reshape(tmp_path):
    after = lambda y: tf.nn.relu(tf.reshape(y, [-1, 2, 6]) + BIAS)  # noqa: E731
    found, _ = _found(tmp_path, after, {"x": activations(4, 8)}, weights(8, 6))
    np.testing.assert_allclose(found.shift, BIAS)


@pytest.mark.parametrize(
    "after",
    [
        lambda y: y,
        lambda y: tf.nn.relu(y) + y,
        lambda y: tf.nn.relu(y + tf.roll(y, 1, 0)),
        lambda y: tf.nn.gelu(y),
        lambda y: tf.nn.relu(tf.nn.max_pool2d(y, 2, 2, "SAME")),
        lambda y: tf.nn.relu(y * tf.reduce_mean(y)),
        lambda y: tf.nn.relu(y + tf.constant(RNG.standard_normal((5, 6)), tf.float32)),
    ],
    ids=["none", "skipped", "of a sum", "gelu", "pooled", "data-dependent", "not by channel"],
)
def test_what_is_no_relu_of_the_site_alone_is_not_taken_for_one(after, tmp_path):
    assert _found(tmp_path, after)[0] is None


@pytest.mark.parametrize(
    ("first", "agrees"),
    [
        (tf.nn.relu, True),
        (lambda y: tf.nn.relu(y + BIAS), False),
        (lambda y: tf.nn.relu(2 * y), False),
        (tf.nn.relu6, False),
    ],
    ids=["alike", "another bias", "another scale", "another top"],
)
def test_a_shared_kernel_has_one_only_if_all_uses_agree(first, agrees, tmp_path):
    kernel = tf.Variable(weights(6, 6), name="kernel")

    def function(x):
        return {"y": tf.nn.relu(tf.matmul(first(tf.matmul(x, kernel)), kernel))}

    export(tmp_path / "model", function, {"x": activations(4, 6)}, {"kernel": kernel})
    (used,) = open_saved_model(tmp_path / "model").kernels
    assert (rectifier_behind(used) is not None) == agrees
