import numpy as np
import pytest
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.crs_dense import CRSDense
from tfapprox.sampling.settings import Sampling
from tfapprox.training.recalibration import recalibrate_batch_norm


def test_moving_statistics_become_the_averages_over_exact_batches():
    sampling = Sampling(forward_ratio=0.25)
    model = keras.Sequential(
        [keras.Input((32,)), CRSDense(6, sampling=sampling), keras.layers.BatchNormalization()]
    )
    batches = np.random.default_rng(0).normal(1, 1, (3, 50, 32)).astype(np.float32)
    kernel = model.layers[0].kernel.numpy()
    recalibrate_batch_norm(model, batches)
    norm = model.layers[1]
    outputs = batches @ kernel
    np.testing.assert_allclose(norm.moving_mean, outputs.mean((0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, outputs.var(1).mean(0), rtol=1e-4)
    assert model.layers[0].sampling == sampling
    assert norm.momentum == 0.99
    np.testing.assert_array_equal(model.layers[0].kernel, kernel)


def test_a_model_without_batch_normalization_needs_no_batches():
    recalibrate_batch_norm(keras.Sequential([keras.Input((4,)), CRSDense(2)]), [])


def normed():
    layers = keras.layers
    return keras.Sequential([keras.Input((4, 1)), CRSDense(2), layers.BatchNormalization()])


def test_labels_beside_the_inputs_are_left_out():
    x = np.random.default_rng(0).normal(3, 1, (2, 8, 4, 1)).astype(np.float32)
    model = normed()
    recalibrate_batch_norm(model, x)
    wanted = model.layers[1].moving_mean.numpy()
    for pairs in ([(a, np.zeros(8)) for a in x], [[a, np.zeros(8), np.ones(8)] for a in x]):
        model.layers[1].moving_mean.assign([0, 0])
        recalibrate_batch_norm(model, pairs)
        np.testing.assert_array_equal(model.layers[1].moving_mean, wanted)


def test_examples_in_the_place_of_batches_and_no_batch_at_all_are_refused():
    x = np.zeros((8, 4, 1), np.float32)
    with pytest.raises(UserError, match=r"recalibrate_batch_norm: .* takes shapes .* got"):
        recalibrate_batch_norm(normed(), x)
    with pytest.raises(UserError, match="no batch"):
        recalibrate_batch_norm(normed(), [])
