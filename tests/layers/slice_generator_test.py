import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.hyper_slice_generator import HyperSliceGenerator
from tfapprox.layers.slice_generator import SliceGenerator

ANYTHING = tf.zeros((1, 2))


def test_a_binary_generator_keeps_signs_in_a_byte_each_and_never_trains():
    layer = SliceGenerator((4, 2, 3, 3), 9, binary=True, seed=0)
    slices = np.asarray(layer(ANYTHING))
    assert layer.trainable_weights == []
    assert {str(weight.dtype) for weight in layer.weights} == {"int8"}
    np.testing.assert_allclose(np.abs(slices), 1 / 3, rtol=1e-6)
    assert 0.4 < np.mean(slices > 0) < 0.6


def test_signs_are_those_of_the_initial_weights_of_an_ordinary_generator():
    ordinary = SliceGenerator((4, 2, 3, 3), 9, seed=0)(ANYTHING)
    binary = SliceGenerator((4, 2, 3, 3), 9, binary=True, seed=0)(ANYTHING)
    np.testing.assert_array_equal(np.sign(ordinary), np.sign(binary))


def test_the_initializer_is_used_and_survives_the_config():
    layer = SliceGenerator((4, 2, 3, 3), 9, initializer="ones")
    copy = SliceGenerator.from_config(layer.get_config())
    np.testing.assert_array_equal(copy(ANYTHING), np.ones((9, 3, 3, 2, 4)))


def test_freezing_is_keras_own():
    layer = SliceGenerator((4, 2, 3, 3), 9)
    layer(ANYTHING)
    assert len(layer.trainable_weights) == 1
    layer.trainable = False
    assert layer.trainable_weights == []


def test_a_code_longer_than_the_slice_is_refused():
    with pytest.raises(UserError, match="between 1 and the 8 entries"):
        SliceGenerator((4, 2, 1, 1), 9)


def test_a_hypernetwork_is_two_linear_layers():
    rng = np.random.default_rng(0)
    layer = HyperSliceGenerator((4, 2, 3, 3), 5)
    layer(ANYTHING)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    slices = np.asarray(layer(ANYTHING)).reshape(6, -1)
    first = keras.layers.Dense(5)
    second = keras.layers.Dense(72)
    embedding = rng.normal(size=(1, 5)).astype(np.float32)
    second(first(embedding))
    weights = layer.get_weights()
    first.set_weights(weights[:2])
    second.set_weights(weights[2:])
    expected = second(first(embedding))
    np.testing.assert_allclose(embedding @ slices[:-1] + slices[-1], expected, atol=1e-4)
