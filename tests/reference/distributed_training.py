"""A small training by any strategy, in a process of its own: writes what came of it.

Workers find each other by TF_CONFIG. Every strategy sees the same global batches, so all
but the sampled training must come to the same numbers.
"""

import json
import os

import numpy as np
import tensorflow as tf
from tensorflow import keras

from tfapprox.decompositions.options import CandidateOptions
from tfapprox.rewriters.approximate_training import ApproximateTrainingConfig, approximate_training
from tfapprox.rewriters.generate_slices import generate_slices
from tfapprox.sampling.settings import Sampling
from tfapprox.selection.problem import Budget
from tfapprox.training.decompose_in_training import DecomposeInTraining, fit_with_decomposition
from tfapprox.training.multi_worker import train_on_workers

EPOCHS = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6, 6, 4)).astype("float32")
Y = X.mean((1, 2))[:, :3].argmax(1)
DECOMPOSE = DecomposeInTraining(
    1,
    "svd",
    "uniform",
    3,
    budget=Budget("params", keep=0.6),
    candidates=CandidateOptions(rank_multiple=1),
)


def make_strategy(name):
    if name == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def build(kind):
    """Returns a compiled model: kind crs trains on samples, csg on generated kernels."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="first"),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(64, activation="relu", name="wide"),
            layers.Dense(3, name="logits"),
        ]
    )
    if kind == "crs":
        sampling = Sampling("nps", 0.5, scale=True)
        config = ApproximateTrainingConfig(sampling, include="wide|logits")
        model, _ = approximate_training(model, config)
    if kind == "csg":
        model = generate_slices(model, (4, 4, 3, 3), 4, seed=0).model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return train_on_workers(model)


def data(epoch):
    order = np.random.default_rng(epoch).permutation(len(X))
    return tf.data.Dataset.from_tensor_slices((X[order], Y[order])).batch(32)


def train(kind, strategy, folder):
    """Returns the model and the losses of its epochs."""
    with strategy.scope():
        model = build(kind)
    if kind == "decompose":
        done = {"epochs": EPOCHS, "verbose": 0, "backup_dir": folder}
        fit_with_decomposition(model, DECOMPOSE, data, **{**done, "epochs": 2})
        with strategy.scope():
            model = build(kind)  # as in a process that takes over from a killed one
        result = fit_with_decomposition(model, DECOMPOSE, data, **done)
        return result.model, result.history.history["loss"]
    losses = []
    for epoch in range(EPOCHS):
        ends = {"initial_epoch": epoch, "epochs": epoch + 1}
        losses += model.fit(data(epoch), **ends, shuffle=False, verbose=0).history["loss"]
    return model, losses


def run(name, folder):
    """Returns, for each kind of training, what can be compared."""
    strategy, results = make_strategy(name), {}
    for kind in ("crs", "csg", "decompose"):
        model, losses = train(kind, strategy, folder)
        results[kind] = {
            "losses": losses,
            "weights": [w.numpy().ravel().tolist() for w in model.weights],
            "evaluated": model.evaluate(data(0), verbose=0),
            "strategy": type(model.distribute_strategy).__name__,
            "optimizer": type(model.optimizer._distribution_strategy).__name__,
        }
        if kind == "crs":
            layer = model.get_layer("logits")
            results[kind]["draws"] = int(tf.convert_to_tensor(layer.draws))
            results["drawn"] = draw_once_more(layer, strategy)
    return results


def draw_once_more(layer, strategy):
    """Returns what each replica of this process makes of the same input."""
    same = tf.constant(np.random.default_rng(1).normal(size=(2, 64)).astype("float32"))
    outputs = strategy.run(tf.function(lambda: layer(same, training=True)))
    return [value.numpy().tolist() for value in strategy.experimental_local_results(outputs)]


def main(name, folder, results, cluster=""):
    """Writes what `run` returns to a file; `cluster` is TF_CONFIG, if any."""
    if cluster:
        os.environ["TF_CONFIG"] = cluster
    results.write_text(json.dumps(run(name, folder)))
