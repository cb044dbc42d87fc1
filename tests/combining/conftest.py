"""A tiny trained network, and TFMOT where it is installed."""

import numpy as np
import pytest

from tfapprox.combining.optimizing import Examples
from tfapprox.combining.tfmot_import import load_tfmot
from tfapprox.errors import UserError


@pytest.fixture(scope="session")
def tfmot():
    """The library; without it the test is skipped and says so."""
    try:
        return load_tfmot()
    except UserError as error:
        pytest.skip(str(error))


def small_model(keras):
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="conv_1")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="conv_2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(32, activation="relu", name="hidden")(x)
    outputs = layers.Dense(4, activation="softmax", name="classes")(x)
    return keras.Model(inputs, outputs, name="small")


@pytest.fixture(scope="session")
def examples():
    """Four classes, each a bright quadrant: easy to learn, quick to train on."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 256)
    images = rng.uniform(0, 0.5, (256, 8, 8, 1)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.5
    return Examples(images, labels)


@pytest.fixture(scope="session")
def keras3_model(examples):
    from tensorflow import keras

    keras.utils.set_random_seed(0)
    model = small_model(keras)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(examples.x, examples.y, epochs=3, verbose=0)
    return model


@pytest.fixture
def legacy_model():
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    return small_model(tf_keras)
