import numpy as np
import pytest
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.rewriters.layer_substitution import substitute_layers

layers = keras.layers
ROWS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def model_with_shared_layer():
    inputs = keras.Input((4,), name="rows")
    shared = layers.Dense(4, activation="tanh", name="shared")
    x = shared(shared(inputs))
    x = layers.BatchNormalization(name="norm")(x)
    frozen = layers.Dense(2, name="last", trainable=False)
    return keras.Model(inputs, frozen(x), name="net")


def test_substituting_nothing_copies_the_model():
    model = model_with_shared_layer()
    copy = substitute_layers(model, {})
    np.testing.assert_array_equal(copy(ROWS), model(ROWS))
    assert copy.count_params() == model.count_params()
    assert not copy.get_layer("last").trainable
    copy.get_layer("shared").set_weights([np.zeros((4, 4)), np.zeros(4)])
    assert np.abs(model.get_layer("shared").kernel).max() > 0


def test_a_factory_is_asked_once_for_a_shared_layer():
    made = []

    def factory(layer):
        made.append(layer.name)
        return lambda x: x

    copy = substitute_layers(model_with_shared_layer(), {"shared": factory})
    assert made == ["shared"]
    assert [layer.name for layer in copy.layers] == ["rows", "norm", "last"]


def test_nested_models_are_laid_open():
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, layers.Dense(4, name="deep")(inner_input), name="inner")
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2, name="top")])
    copy = substitute_layers(outer, {"inner/deep": lambda layer: lambda x: x})
    kernel, bias = (np.asarray(weight) for weight in outer.get_layer("top").get_weights())
    np.testing.assert_allclose(copy(ROWS), ROWS @ kernel + bias, atol=1e-6)


def test_unknown_layers_and_equal_names_are_refused():
    with pytest.raises(UserError, match="has no layer 'missing'"):
        substitute_layers(model_with_shared_layer(), {"missing": lambda layer: lambda x: x})
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, layers.Dense(4, name="same")(inner_input), name="inner")
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2, name="same")])
    with pytest.raises(UserError, match="have one name"):
        substitute_layers(outer, {})
