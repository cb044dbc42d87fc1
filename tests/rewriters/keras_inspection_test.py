import keras as keras_3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfapprox.rewriters.keras_inspection import inspect_keras_model

FLAVOURS = pytest.mark.parametrize("keras", [keras_3, tf_keras], ids=["keras3", "tf_keras"])


@FLAVOURS
def test_layers_that_stay_are_listed_with_reason_and_cost(keras):
    layers = keras.layers
    image, ids = keras.Input((8, 8, 4)), keras.Input((6,), dtype="int32")
    x = layers.Conv2D(4, 3, groups=2, padding="same", name="grouped")(image)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", name="depthwise")(x)
    x = layers.SeparableConv2D(6, 3, padding="same", name="separable")(x)
    x = layers.Conv2DTranspose(2, 2, strides=2, name="transposed")(x)
    x = layers.BatchNormalization()(layers.Flatten()(x))
    t = layers.Embedding(9, 4, name="table")(ids)
    t = layers.MultiHeadAttention(2, 2, name="attention")(t, t)
    t = layers.TimeDistributed(layers.Dense(3), name="steps")(t)
    t = layers.LSTM(5, name="lstm")(t)
    inspection = inspect_keras_model(keras.Model([image, ids], [x, t]))
    assert not inspection.sites
    kept = {k.name: k for k in inspection.kept}
    assert kept["grouped"].cost.macs == 64 * 9 * 2 * 4
    assert kept["depthwise"].cost.macs == 16 * 9 * 4
    assert kept["separable"].cost.macs == 16 * (9 * 4 + 4 * 6)
    assert kept["transposed"].cost.macs == 16 * 4 * 6 * 2
    assert kept["table"].cost.macs == 0
    assert kept["lstm"].cost.macs == 6 * (3 + 5) * 20
    assert "not visible" in kept["attention"].reason
    assert "not visible" in kept["steps"].reason
    assert "2 groups" in kept["grouped"].reason
    assert "depthwise" in kept["depthwise"].reason
    assert "loop" in kept["lstm"].reason
    assert "look-up" in kept["table"].reason


@FLAVOURS
def test_totals_count_every_weight(keras):
    x = keras.Input((4,))
    y = keras.layers.BatchNormalization()(keras.layers.Dense(3, dtype="float64")(x))
    model = keras.Model(x, y)
    inspection = inspect_keras_model(model)
    assert inspection.params == model.count_params() == 15 + 12
    assert inspection.param_bytes == sum(w.nbytes for w in model.get_weights())


@FLAVOURS
def test_an_open_size_is_assumed_at_the_input_and_said(keras):
    x = keras.Input((None, None, 3))
    y = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="body")(x)
    pooled = keras.layers.GlobalAveragePooling2D()(y)
    model = keras.Model(x, keras.layers.Dense(2, name="head")(pooled))
    body, head = inspect_keras_model(model, assumed_size=32).sites
    assert body.geometries[0].input_size == (32, 32)
    assert "32" in body.assumed_size
    assert head.geometries[0].input_size == (1, 1) and not head.assumed_size


@FLAVOURS
def test_a_causal_convolution_pads_its_beginning(keras):
    x = keras.Input((10, 2))
    model = keras.Model(x, keras.layers.Conv1D(3, 4, padding="causal", dilation_rate=2)(x))
    (site,) = inspect_keras_model(model).sites
    assert site.kernel.shape == (1, 4, 2, 3)
    (geometry,) = site.geometries
    assert geometry.padding == ((0, 0), (6, 0))
    assert geometry.output_size(site.kernel_size) == (1, 10)


@FLAVOURS
def test_a_dense_layer_counts_the_positions_it_is_applied_to(keras):
    x = keras.Input((5, 7, 4))
    (site,) = inspect_keras_model(keras.Model(x, keras.layers.Dense(3)(x))).sites
    assert site.geometries[0].input_size == (1, 35)
    assert site.cost.macs == 35 * 12


@FLAVOURS
def test_layers_of_unknown_computation_are_no_sites(keras):
    class Doubled(keras.layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    x = keras.Input((4,))
    y = Doubled(3, name="own")(x)
    y = keras.layers.Dense(3, activation=keras.layers.PReLU(), name="layered")(y)
    inspection = inspect_keras_model(keras.Model(x, y))
    assert not inspection.sites
    reasons = {k.name: k.reason for k in inspection.kept}
    assert "custom layer Doubled" in reasons["own"]
    assert "activation is a layer" in reasons["layered"]


def test_quantized_and_lora_layers_are_kept():
    x = keras_3.Input((16,))
    y = keras_3.layers.Dense(8, name="quantized")(x)
    model = keras_3.Model(x, keras_3.layers.Dense(8, name="adapted")(y))
    model.get_layer("quantized").quantize("int8")
    model.get_layer("adapted").enable_lora(2)
    reasons = {k.name: k.reason for k in inspect_keras_model(model).kept}
    assert "int8" in reasons["quantized"]
    assert "LoRA" in reasons["adapted"]


@FLAVOURS
def test_a_kernel_constraint_is_remarked_on(keras):
    x = keras.Input((4,))
    layer = keras.layers.Dense(3, kernel_constraint="non_neg", name="positive")
    (note,) = inspect_keras_model(keras.Model(x, layer(x))).notes
    assert "positive" in note and "constraint" in note


@FLAVOURS
def test_channels_first_positions_are_the_last_axes(keras):
    x = keras.Input((3, 8, 6))
    layer = keras.layers.Conv2D(4, 3, data_format="channels_first", strides=(2, 1))
    (site,) = inspect_keras_model(keras.Model(x, layer(x))).sites
    assert site.geometries[0].input_size == (8, 6)
    assert site.geometries[0].strides == (2, 1)


@FLAVOURS
def test_inspection_leaves_no_trace_in_the_model(keras):
    x = keras.Input((4,))
    model = keras.Sequential([x, keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    inspect_keras_model(model)
    assert all(len(layer._inbound_nodes) == 1 for layer in model.layers)
    assert np.asarray(model(tf.ones((1, 4)))).shape == (1, 3)


@FLAVOURS
def test_a_size_lost_inside_the_model_is_assumed_too(keras):
    x = keras.Input((6, 4))
    y = keras.layers.Lambda(lambda t: tf.boolean_mask(t, t[0, :, 0] > 0, axis=1))(x)
    (site,) = inspect_keras_model(keras.Model(x, keras.layers.Dense(2)(y)), assumed_size=5).sites
    assert site.geometries[0].input_size == (1, 5)
    assert "5" in site.assumed_size
