import numpy as np
from tensorflow import keras

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
