"""What the pages assume their reader to have: a model, its data, and a directory."""

import numpy as np
import pytest


def _keras_model(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="classes"),
        ],
        name="digits",
    )


@pytest.fixture(scope="session")
def trained():
    """A compiled Keras model that tells scikit-learn's digits apart, and its data."""
    from sklearn.datasets import load_digits
    from tensorflow import keras

    keras.utils.set_random_seed(0)
    digits = load_digits()
    x = (digits.images[:512, :, :, np.newaxis] / 16).astype(np.float32)
    y = digits.target[:512].astype(np.int64)
    model = _keras_model(keras)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=3, batch_size=32, verbose=0)
    return model, x, y


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """The same as a SavedModel."""
    path = tmp_path_factory.mktemp("docs") / "model"
    trained[0].export(str(path), verbose=False)
    return path


@pytest.fixture
def reader(trained, exported, tmp_path, monkeypatch, measured_here):
    """The namespace of a page's Python; the current directory has model and data."""
    import shutil

    from tensorflow import keras

    from tfapprox.serving.signature import read_signatures

    model, x, y = trained
    shutil.copytree(exported, tmp_path / "model")
    (key,) = read_signatures(str(exported))["serving_default"].inputs
    np.savez(tmp_path / "inputs.npz", **{key: x[:64]})
    np.save(tmp_path / "labels.npy", y[:64])
    monkeypatch.chdir(tmp_path)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return {"__name__": "page", "model": copy, "keras_model": copy, "x": x[:128], "y": y[:128]}
