"""The check values again, from built models."""

import pytest
from tensorflow import keras

from experiments.models.lstm_lm import lstm_lm
from experiments.models.mlp import mlp
from experiments.models.mnist_cnn import mnist_cnn
from experiments.models.wide_resnet import wide_resnet
from tfapprox.rewriters.approximate_training import (
    ApproximateTrainingConfig,
    approximate_training,
)
from tfapprox.rewriters.model_compute import (
    kept_activation_bytes,
    model_compute_reduction,
    model_layers,
)
from tfapprox.sampling.settings import Sampling


@pytest.mark.parametrize(
    "build, sampling, choice, batch, percent, digits",
    [
        (mlp, Sampling(forward_ratio=0.4, backward_ratio=0.05), {}, 50, 79.50, 2),
        (mnist_cnn, Sampling(forward_ratio=0.3), {}, 50, 67.86, 2),
        (mnist_cnn, Sampling(forward_ratio=0.4, backward_ratio=0.2), {}, 50, 78.84, 2),
        (lstm_lm, Sampling(forward_ratio=0.5), {"include": "projection"}, 20, 24.5, 1),
        (wide_resnet, Sampling(forward_ratio=0.5), {"exclude": "logits"}, 128, 49.997, 3),
    ],
)
def test_the_papers_networks_give_the_published_reductions(
    build, sampling, choice, batch, percent, digits
):
    model, _ = approximate_training(build(), ApproximateTrainingConfig(sampling, **choice))
    assert round(100 * model_compute_reduction(model, batch), digits) == percent


def test_layers_behind_trained_ones_are_not_first_and_nested_models_are_laid_open():
    layers = keras.layers
    inner = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(4, 3, name="in")], name="body")
    inputs = keras.Input((6, 6, 3))
    x = layers.Flatten()(inner(inputs))
    side = layers.Dense(5, name="side")(layers.Flatten()(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Concatenate()([x, side])))
    found = {
        entry.name: (entry.macs, entry.out_channels, entry.first) for entry in model_layers(model)
    }
    assert found == {
        "in": (4 * 4 * 27 * 4, 4, True),
        "side": (108 * 5, 5, True),
        "out": ((64 + 5) * 2, 2, False),
    }


def test_einsum_layers_are_counted_by_their_free_axes():
    inputs = keras.Input((7, 6))
    outputs = keras.layers.EinsumDense("abc,cde->abde", output_shape=(7, 2, 5))(inputs)
    (entry,) = model_layers(keras.Model(inputs, outputs))
    assert (entry.macs, entry.out_channels) == (7 * 6 * 10, 10)


def test_sampled_layers_keep_the_gathered_share_of_their_inputs():
    exact = mlp()
    config = ApproximateTrainingConfig(Sampling(forward_ratio=0.25), include="dense2")
    sampled, _ = approximate_training(exact, config)
    assert kept_activation_bytes(exact, 50) == 50 * 4 * (784 + 500 + 500)
    assert kept_activation_bytes(sampled, 50) == 50 * 4 * (784 + 125 + 500)


def test_sequences_are_counted_at_every_position_where_their_length_is_known():
    def entries(steps):
        inputs = keras.Input((steps, 4))
        hidden = keras.layers.LSTM(3, return_sequences=True, name="lstm")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(5, name="dense")(hidden))
        found = {entry.name: (entry.macs, entry.rows) for entry in model_layers(model)}
        return found, kept_activation_bytes(model, 2)

    gates = (4 + 3) * 4 * 3
    assert entries(7) == ({"lstm": (7 * gates, 1), "dense": (7 * 15, 7)}, 2 * 7 * (4 + 3) * 4)
    assert entries(None) == ({"lstm": (gates, 1), "dense": (15, 1)}, 2 * (4 + 3) * 4)


def test_rows_are_of_dense_layers_and_not_of_convolutions():
    inputs = keras.Input((7, 6))
    x = keras.layers.EinsumDense("abc,cd->abd", output_shape=(7, 5), name="einsum")(inputs)
    x = keras.layers.Conv1D(3, 2, padding="same", name="conv")(x)
    rows = {entry.name: entry.rows for entry in model_layers(keras.Model(inputs, x))}
    assert rows == {"einsum": 7, "conv": 1}
