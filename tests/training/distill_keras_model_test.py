"""Distilled Keras models: their new layers learn, everything else stays."""

import numpy as np
import pytest
from tensorflow import keras

from tfapprox import Budget, CompressionConfig, compress_model
from tfapprox.errors import UserError
from tfapprox.training.distillation_config import DistillationConfig

CONFIG = CompressionConfig(Budget("macs", keep=0.4), calibration="none")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    image, flag = keras.Input((6, 6, 3), name="image"), keras.Input((4,), name="flag")
    x = keras.layers.Conv2D(16, 3, activation="relu", name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Concatenate()([keras.layers.Flatten()(x), flag])
    return keras.Model([image, flag], keras.layers.Dense(64, name="dense")(x), name="two_inputs")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    shapes = ((100, 6, 6, 3), (100, 4))
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def test_new_layers_learn_and_the_others_stay(model, data):
    def error(candidate):
        want, got = model(data), candidate(data)
        return np.linalg.norm(got - want) / np.linalg.norm(want)

    plain, _ = compress_model(model, CONFIG, inputs=data)
    tuned, report = compress_model(
        model, CONFIG, calibration_data=data, distillation=DistillationConfig(40, 0.003)
    )
    told = report.distillation
    assert told is not None and told.error_after < told.error_before
    assert error(tuned) < error(plain)
    assert report.verification is not None and report.verification.passed
    for old, new in zip(model.get_layer("norm").weights, tuned.get_layer("norm").weights,
                        strict=True):  # fmt: skip
        np.testing.assert_array_equal(old.numpy(), new.numpy())


def test_what_can_not_be_trained_is_refused(model, data):
    with pytest.raises(UserError, match="calibration data"):
        compress_model(model, CONFIG, inputs=data, distillation=DistillationConfig(1))
    mirrored = DistillationConfig(1, strategy="mirrored")
    with pytest.raises(UserError, match="in the scope"):
        compress_model(model, CONFIG, calibration_data=data, distillation=mirrored)
