import numpy as np
import pytest
import tf_keras
from tensorflow import keras

from tfapprox.combining import keras_bridge
from tfapprox.combining.keras_bridge import to_tf_keras
from tfapprox.errors import UserError, VerificationError

layers = keras.layers


def test_layers_weights_and_statistics_arrive_in_tf_keras():
    keras.utils.set_random_seed(1)
    a, b = keras.Input((12, 12, 4), name="a"), keras.Input((6, 6, 8), name="b")
    x = layers.Conv2D(8, 3, strides=2, padding="same", groups=2, name="grouped")(a)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.LeakyReLU(negative_slope=0.3, name="leaky")(x)
    x = layers.Add(name="add")([x, b])
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.Concatenate(name="join")([x, x])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.5, name="drop")(layers.LayerNormalization(name="layer_norm")(x))
    y = layers.Dense(3, activation="gelu", kernel_regularizer="l2", name="dense")(x)
    model = keras.Model([a, b], [y, layers.Softmax(name="soft")(y)], name="all")
    for name in ("moving_mean", "moving_variance", "gamma"):
        getattr(model.get_layer("norm"), name).assign(np.linspace(0.5, 2, 8))
    bridged, parity = to_tf_keras(model)
    assert isinstance(bridged, tf_keras.Model)
    assert [layer.name for layer in bridged.layers] == [layer.name for layer in model.layers]
    assert parity.passed and parity.relative_error < 1e-5
    ours = bridged([np.ones((2, 12, 12, 4)), np.ones((2, 6, 6, 8))], training=False)
    assert len(ours) == 2


def test_shared_layers_stay_shared_and_sequential_models_are_taken():
    shared = layers.Dense(4, name="shared")
    x = inputs = keras.Input((4,))
    functional = keras.Model(inputs, shared(shared(x)))
    bridged, _ = to_tf_keras(functional)
    assert len(bridged.weights) == 2
    stacked = keras.Sequential([keras.Input((6,)), layers.Dense(3), layers.LSTM(2)][:2])
    assert to_tf_keras(stacked)[1].passed


def test_a_tf_keras_model_is_returned_as_it_is(legacy_model):
    assert to_tf_keras(legacy_model) == (legacy_model, None)


class Own(layers.Layer):
    def call(self, inputs):
        return inputs


def through(*chain):
    x = inputs = keras.Input((4,))
    for layer in chain:
        x = layer(x)
    return keras.Model(inputs, x, name="model")


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([Own(name="own")], "'own' .Own. has no counterpart"),
        ([lambda x: x + x], "has no counterpart in tf_keras: use stock layers"),
        ([lambda x: layers.LayerNormalization(rms_scaling=True)(x)], r"lacks its settings \['rms"),
        ([lambda x: through(layers.Dense(2))(x)], "holds the model 'model'"),
    ],
)
@pytest.mark.filterwarnings("ignore:You passed `rms_scaling")
def test_what_tf_keras_has_not_is_refused_by_name(chain, message):
    with pytest.raises(UserError, match=message) as caught:
        to_tf_keras(through(*chain))
    assert "\n" not in str(caught.value)


def test_merged_lora_weights_are_asked_for():
    model = through(layers.Dense(4, name="tuned"))
    model.get_layer("tuned").enable_lora(2)
    with pytest.raises(UserError, match="'tuned' has LoRA"):
        to_tf_keras(model)


def test_other_outputs_are_an_error(monkeypatch):
    monkeypatch.setattr(keras_bridge, "_copy_weights", lambda old, new: None)
    with pytest.raises(VerificationError, match="other outputs in tf_keras"):
        to_tf_keras(through(layers.Dense(4)))
