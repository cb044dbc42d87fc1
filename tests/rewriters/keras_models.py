"""Models of both flavours of Keras, and how the tests of the rewriter compare them."""

import keras as keras_3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.decompositions.unfolding import matrix_shape
from tfapprox.rewriters.keras_model import inspect_keras_model
from tfapprox.selection.problem import Configuration

FLAVOURS = pytest.mark.parametrize("keras", [keras_3, tf_keras], ids=["keras3", "tf_keras"])
# Single precision, a few hundred terms a sum.
TOLERANCE = 1e-5


def factorize(site, scheme=0, slices=1, rank=None):
    rank = rank or min(matrix_shape(site.kernel.shape, scheme, slices))
    settings = Configuration("svd", {"scheme": scheme, "slices": slices, "rank": rank})
    return SvdDecomposition().factorize(site, settings, SpectrumCache())


def full_rank(model, **settings):
    return {s.name: factorize(s, **settings) for s in inspect_keras_model(model).sites}


def arrays(model, batch=2, size=8):
    rng = np.random.default_rng(0)
    shapes = [[batch] + [size if n is None else n for n in x.shape[1:]] for x in model.inputs]
    dtypes = [tf.as_dtype(x.dtype).as_numpy_dtype for x in model.inputs]
    return [rng.normal(size=s).astype(d) for s, d in zip(shapes, dtypes, strict=True)]


def outputs_of(model, inputs):
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [y.numpy() for y in tf.nest.flatten(outputs)]


def assert_agree(model, other, tolerance=TOLERANCE, **sizes):
    inputs = arrays(model, **sizes)
    for a, b in zip(outputs_of(model, inputs), outputs_of(other, inputs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert np.linalg.norm(np.float64(a) - b) <= tolerance * np.linalg.norm(np.float64(a))


def randomize(model):
    """Gives biases, statistics and the like values that can't be mistaken for defaults."""
    rng = np.random.default_rng(1)
    for w in model.weights:
        w.assign(np.abs(rng.normal(size=w.shape)) * 0.5 + 0.1)
    return model


def small_net(keras):
    """Two inputs and outputs, a residual add, batch norm, a nested Sequential."""
    layers = keras.layers
    image = keras.Input((9, 8, 4), name="image")
    extra = keras.Input((3,), name="extra")
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="first")(image)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(6, 3, padding="same", use_bias=False, name="second")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="add")([x, y]))
    x = layers.Concatenate(name="join")([x, extra])
    head = keras.Sequential(
        [
            keras.Input((9,)),
            layers.Dense(7, activation="tanh", name="hidden"),
            layers.Dense(5, name="top"),
        ],
        name="head",
    )
    x = head(x)
    scores = layers.Dense(4, activation="softmax", name="scores")(x)
    value = layers.Dense(2, name="value")(x)
    return randomize(keras.Model([image, extra], [scores, value], name="small_net"))
