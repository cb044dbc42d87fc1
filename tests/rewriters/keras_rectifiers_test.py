import numpy as np
import pytest
from tensorflow import keras

from tfapprox.rewriters.keras_rectifiers import keras_rectifiers

L = keras.layers


def _normalization():
    return L.BatchNormalization(name="normalization")


def _model(*layers):
    model = keras.Sequential([keras.Input((6, 6, 3)), *layers])
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.3, 1.5, weight.shape) - 0.5 * ("beta" in weight.path))
    return model


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [L.Conv2D(4, 3, activation="relu", name="conv")],
        lambda: [L.Conv2D(4, 3, name="conv"), _normalization(), L.ReLU(max_value=1.0)],
        lambda: [L.Conv2D(4, 3, use_bias=False, name="conv"), L.Activation("relu6")],
        lambda: [L.Conv2D(4, 3, name="conv"), L.Dropout(0.5), _normalization(), L.ReLU()],
    ],
)
def test_the_rectifier_does_what_lies_behind_the_layer(layers):
    model = _model(*layers())
    found = keras_rectifiers(model)["conv"]
    images = np.random.default_rng(1).standard_normal((2, 6, 6, 3)).astype("f4")
    conv = model.get_layer("conv")
    plain = keras.ops.conv(images, conv.kernel, padding="valid")
    np.testing.assert_allclose(found.respond(np.asarray(plain)), model(images), atol=1e-4)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [L.Conv2D(4, 3, activation="gelu", name="conv")],
        lambda: [L.Conv2D(4, 3, name="conv"), L.LeakyReLU()],
        lambda: [L.Conv2D(4, 3, name="conv"), L.MaxPooling2D(), L.ReLU()],
        lambda: [L.Conv2D(4, 3, name="conv"), L.Conv2D(4, 1, activation="relu", name="next")],
        lambda: [L.Conv2D(4, 3, name="conv"), L.ReLU(negative_slope=0.1)],
        lambda: [L.Conv2D(4, 3, name="conv")],
    ],
)
def test_what_is_no_relu_of_the_layer_alone_is_not_taken_for_one(layers):
    assert "conv" not in keras_rectifiers(_model(*layers()))


def test_a_residual_connection_before_the_relu_rules_it_out_and_nested_models_are_entered():
    x = keras.Input((6, 6, 4))
    inner = keras.Sequential([keras.Input((6, 6, 4)), L.Conv2D(4, 1, name="conv"), L.ReLU()])
    y = L.Conv2D(4, 3, padding="same", name="second")(inner(x))
    model = keras.Model(x, L.ReLU()(L.Add()([x, y])))
    assert list(keras_rectifiers(model)) == [f"{inner.name}/conv"]
