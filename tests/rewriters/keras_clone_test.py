import keras as keras_3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfapprox.errors import UserError
from tfapprox.rewriters.keras_model import rewrite_keras_model

FLAVOURS = pytest.mark.parametrize("keras", [keras_3, tf_keras], ids=["keras3", "tf_keras"])


def copy_of(model):
    return rewrite_keras_model(model, {})


def assert_same(model, copy, inputs, **kwargs):
    for a, b in zip(
        tf.nest.flatten(model(inputs, **kwargs)),
        tf.nest.flatten(copy(inputs, **kwargs)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@FLAVOURS
def test_vocabularies_and_statistics_learnt_from_data_come_along(keras):
    words = keras.layers.TextVectorization(output_mode="int", output_sequence_length=4)
    words.adapt(["a b", "b c", "c c"])
    scale = keras.layers.Normalization()
    scale.adapt(np.arange(12.0).reshape(6, 2))
    text, numbers = keras.Input((1,), dtype="string"), keras.Input((2,))
    embedded = keras.layers.Embedding(8, 3, mask_zero=True)(words(text))
    outputs = [keras.layers.LSTM(3)(embedded), keras.layers.Dense(2)(scale(numbers))]
    model = keras.Model([text, numbers], outputs)
    inputs = [tf.constant([["c b"], ["a a z"]]), tf.constant([[1.0, 2.0], [3.0, 5.0]])]
    assert_same(model, copy_of(model), inputs)


@FLAVOURS
def test_custom_classes_need_not_be_registered_and_lambdas_are_not_pickled(keras):
    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

        def call(self, inputs):
            return inputs * self.factor

    def squash(t):
        return t / (1 + abs(t))

    offset = tf.constant(3.0)
    x = keras.Input((4,))
    y = Scale(name="scale")(x)
    y = keras.layers.Lambda(lambda t: t + offset, name="shift")(y)
    y = keras.layers.Dense(2, activation=lambda t: t * 2)(y)
    y = keras.layers.Dense(2, activation=squash)(y)
    model = keras.Model(x, y)
    model.get_layer("scale").factor.assign(2.5)
    assert_same(model, copy_of(model), tf.ones((2, 4)))


@FLAVOURS
def test_a_layer_without_a_usable_config_is_named_with_a_way_out(keras):
    class Stubborn(keras.layers.Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)
            self.inner = keras.layers.Dense(size)

        def call(self, inputs):
            return self.inner(inputs)

        def get_config(self):
            return {"name": self.name}

    x = keras.Input((4,))
    model = keras.Model(x, Stubborn(3, name="stubborn")(x))
    with pytest.raises(UserError, match=r"layer 'stubborn' .* SavedModel"):
        copy_of(model)


@FLAVOURS
def test_partly_frozen_nested_models_stay_so(keras):
    x = keras.Input((4,))
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(4, name="b")],
        name="inner",
    )
    wrapped = keras.layers.TimeDistributed(keras.layers.Dense(3), name="wrapped")
    steps = keras.layers.Reshape((2, 2))(inner(x))
    both = keras.layers.Bidirectional(keras.layers.LSTM(2), name="both")(wrapped(steps))
    model = keras.Model(x, both)
    inner.get_layer("a").trainable = False
    model.get_layer("both").forward_layer.trainable = False
    for w in model.weights:
        w.assign(np.random.default_rng(0).normal(size=w.shape))
    copy = copy_of(model)
    assert not copy.get_layer("inner").get_layer("a").trainable
    assert copy.get_layer("inner").get_layer("b").trainable
    shapes = [tuple(w.shape) for w in model.trainable_weights]
    assert [tuple(w.shape) for w in copy.trainable_weights] == shapes
    assert_same(model, copy, tf.ones((2, 4)))


@FLAVOURS
def test_bare_operations_between_layers_are_kept(keras):
    x, z = keras.Input((4, 3)), keras.Input((4, 3))
    total = keras.ops.sum(x * 2 + z, axis=1) if keras is keras_3 else tf.reduce_sum(x * 2 + z, 1)
    y = total[:, :2] - 1.0
    model = keras.Model([x, z], keras.layers.Dense(2)(y))
    assert_same(model, copy_of(model), [tf.ones((2, 4, 3)), tf.ones((2, 4, 3)) * 5])


@FLAVOURS
def test_attention_masks_and_training_flags_still_reach_their_layers(keras):
    ids = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(7, 4, mask_zero=True)(ids)
    x = keras.layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)
    x = keras.layers.Dropout(0.5)(x, training=False)
    model = keras.Model(ids, keras.layers.GlobalAveragePooling1D()(x))
    inputs = tf.constant([[1, 2, 0, 0, 0], [3, 4, 5, 6, 0]])
    copy = copy_of(model)
    assert_same(model, copy, inputs)
    assert_same(model, copy, inputs, training=True)


@FLAVOURS
def test_a_model_class_with_its_own_training_step_keeps_it(keras):
    class Trainer(keras.Model):
        def train_step(self, data):
            return {"seen": 1.0}

    x = keras.Input((4,))
    model = Trainer(x, keras.layers.Dense(2)(x))
    copy = copy_of(model)
    assert type(copy) is type(model)
    assert_same(model, copy, tf.ones((2, 4)))


def test_a_loss_added_to_the_graph_is_refused_rather_than_dropped():
    x = tf_keras.Input((4,))
    y = tf_keras.layers.Dense(2)(x)
    model = tf_keras.Model(x, y)
    model.add_loss(tf.reduce_sum(y))
    with pytest.raises(UserError, match="add_loss"):
        copy_of(model)
