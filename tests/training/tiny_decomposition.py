"""A network that is decomposed in training within a second, its data, and its settings."""

import keras
import numpy as np
import tensorflow as tf

from tfapprox.decompositions.options import CandidateOptions
from tfapprox.selection.problem import Budget
from tfapprox.training.decompose_in_training import DecomposeInTraining, fit_with_decomposition

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6, 6, 4)).astype("float32")
Y = RNG.integers(0, 3, 64)


def build(optimizer=None, seed=0):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(12, 3, activation="relu", name="stem"),
            layers.Conv2D(12, 3, padding="same", name="middle"),
            layers.BatchNormalization(name="norm"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2, seed=1),
            layers.Dense(3, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([12, 20], [0.05, 0.02, 0.01])
    optimizer = optimizer or keras.optimizers.SGD(schedule, momentum=0.9)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def settings(at_epoch=2, **others):
    return DecomposeInTraining(
        at_epoch,
        others.pop("decomposition", "svd"),
        others.pop("selector", "uniform"),
        budget=Budget("params", keep=0.5),
        candidates=CandidateOptions(rank_multiple=1),
        first_layer=True,
        include="middle|stem",
        **others,
    )


def data(epoch):
    """The examples of an epoch in an order of its own: four steps."""
    order = np.random.default_rng(epoch).permutation(len(X))
    return tf.data.Dataset.from_tensor_slices((X[order], Y[order])).batch(16)


def fit(model, how, epochs=6, **options):
    return fit_with_decomposition(model, how, data, epochs=epochs, verbose=0, **options)


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert np.linalg.norm(np.subtract(a, b)) <= tolerance * max(1.0, np.linalg.norm(b))
