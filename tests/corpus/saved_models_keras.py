"""SavedModels that Keras writes, in both of its flavours."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.corpus.building import Arrays, activations, case


def default_inputs(path: Path, x: np.ndarray) -> Arrays:
    """Returns `x` under the name of the default signature's only input."""
    loaded = tf.saved_model.load(str(path)).signatures["serving_default"]
    (name,) = loaded.structured_input_signature[1]
    return {name: x}


def _convolutional(keras):
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(32, 3, activation="relu", padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(64, 3, strides=2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(128, activation="gelu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


@case(sites=4)
def keras3_export(path: Path) -> Arrays:
    import keras

    _convolutional(keras).export(str(path), verbose=False)
    return default_inputs(path, activations(2, 12, 12, 3))


@case(sites=4)
def keras3_plain_save(path: Path) -> Arrays:
    import keras

    tf.saved_model.save(_convolutional(keras), str(path))
    return default_inputs(path, activations(2, 12, 12, 3))


@case(sites=4)
def tf_keras_save(path: Path) -> Arrays:
    import tf_keras

    model = _convolutional(tf_keras)
    model.compile("adam", "mse")
    model.save(str(path), save_format="tf")
    return default_inputs(path, activations(2, 12, 12, 3))


@case(sites=3)
def keras3_sequence_model(path: Path) -> Arrays:
    import keras

    inputs = keras.Input((9, 48))
    y = keras.layers.Conv1D(64, 3, padding="causal", activation="relu")(inputs)
    y = keras.layers.Dense(96)(y)
    y = keras.layers.EinsumDense("abc,cd->abd", output_shape=(None, 64))(y)
    keras.Model(inputs, y).export(str(path), verbose=False)
    return default_inputs(path, activations(2, 9, 48))


def _recurrent(keras):
    return keras.Sequential(
        [
            keras.Input((7, 48)),
            keras.layers.LSTM(64, return_sequences=True),
            keras.layers.Bidirectional(keras.layers.GRU(48)),
            keras.layers.Dense(32),
        ]
    )


@case(sites=7)
def keras3_recurrent(path: Path) -> Arrays:
    import keras

    _recurrent(keras).export(str(path), verbose=False)
    return default_inputs(path, activations(2, 7, 48))


@case(sites=3)
def tf_keras_recurrent(path: Path) -> Arrays:
    """One layer: tf_keras saves dozens of functions for each."""
    import tf_keras

    layers = [tf_keras.Input((5, 48)), tf_keras.layers.LSTM(64), tf_keras.layers.Dense(32)]
    tf_keras.Sequential(layers).save(str(path), save_format="tf")
    return default_inputs(path, activations(2, 5, 48))


@case(sites=6)
def keras3_attention(path: Path) -> Arrays:
    import keras

    inputs = keras.Input((9, 64))
    y = keras.layers.MultiHeadAttention(4, 24)(inputs, inputs)
    y = keras.layers.LayerNormalization()(y + inputs)
    z = keras.layers.Dense(128, activation="gelu")(y)
    keras.Model(inputs, y + keras.layers.Dense(64)(z)).export(str(path), verbose=False)
    return default_inputs(path, activations(2, 9, 64))


@case(sites=2)
def keras3_siamese(path: Path) -> Arrays:
    import keras

    left, right = keras.Input((64,), name="left"), keras.Input((64,), name="right")
    shared = keras.Sequential([keras.layers.Dense(96, "relu"), keras.layers.Dense(80)])
    distance = keras.ops.sum(shared(left) * shared(right), -1)
    keras.Model({"left": left, "right": right}, distance).export(str(path), verbose=False)
    return {"left": activations(3, 64), "right": activations(3, 64, seed=2)}


@case(sites=3)
def keras3_several_endpoints(path: Path) -> Arrays:
    import keras

    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(96, "relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(80)(hidden))
    body = keras.Model(inputs, hidden)
    head = keras.layers.Dense(72)
    head.build((None, 96))
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(head)
    spec = [tf.TensorSpec([None, 64], tf.float32, name="x")]
    archive.add_endpoint("serving_default", lambda x: model(x), spec)
    archive.add_endpoint("embed", lambda x: body(x), spec)
    archive.add_endpoint("head", lambda x: {"z": head(body(x))}, spec)
    archive.write_out(str(path), verbose=False)
    return default_inputs(path, activations(3, 64))


@case(sites=1)
def keras3_text(path: Path) -> Arrays:
    import keras

    words = keras.layers.TextVectorization(output_sequence_length=5)
    words.adapt(["the quick brown fox", "jumps over the lazy dog"])
    inputs = keras.Input((), dtype="string")
    y = keras.layers.Embedding(words.vocabulary_size(), 64)(words(inputs))
    y = keras.layers.Dense(96)(keras.layers.GlobalAveragePooling1D()(y))
    keras.Model(inputs, y).export(str(path), verbose=False)
    return default_inputs(path, np.array([b"the brown dog", b"a cat"], object))


@case(sites=2, precision="float16")
def keras3_mixed_float16(path: Path) -> Arrays:
    import keras

    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(96, "relu", dtype="mixed_float16"),
            keras.layers.Dense(80, dtype="mixed_float16"),
        ]
    )
    model.export(str(path), verbose=False)
    return default_inputs(path, activations(3, 64))


@case(sites=2)
def tf_keras_regularized(path: Path) -> Arrays:
    import tf_keras

    penalty = tf_keras.regularizers.L2(1e-3)
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(96, "relu", kernel_regularizer=penalty, input_shape=(64,)),
            tf_keras.layers.Dense(80, kernel_regularizer=penalty),
        ]
    )
    model.save(str(path), save_format="tf")
    return default_inputs(path, activations(3, 64))
