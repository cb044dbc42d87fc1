"""Both pipelines at a tiny size, in a process that kills itself at a given moment.

By SIGKILL, which nothing can catch.
"""

import hashlib
import json
import os
import pathlib
import signal

import numpy as np
import tensorflow as tf
from tensorflow import keras

from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.selection.problem import Budget
from tfapprox.training.best_epoch import RetrainData
from tfapprox.training.compress_retrain import RetrainConfig, compress_retrain
from tfapprox.training.decompose_in_training import DecomposeInTraining, fit_with_decomposition

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 12)).astype("float32")
Y = (X[:, :3] + 0.3 * RNG.normal(size=(96, 3))).argmax(1)
HALF, ANY_RANK = Budget("params", keep=0.5), CandidateOptions(rank_multiple=1)


def split(begin, end):
    return tf.data.Dataset.from_tensor_slices((X[begin:end], Y[begin:end])).batch(16)


def epoch_data(epoch):
    order = np.random.default_rng(epoch).permutation(64)
    return tf.data.Dataset.from_tensor_slices((X[order], Y[order])).batch(16)


def build():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(16, activation="relu", name="first"),
            layers.Dropout(0.2),
            layers.BatchNormalization(),
            layers.Dense(16, activation="relu", name="second"),
            layers.Dense(3, name="logits"),
        ]
    )
    schedule = keras.optimizers.schedules.CosineDecay(0.02, 24)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    adam = keras.optimizers.Adam(schedule)
    model.compile(adam, loss, metrics=["accuracy"])
    return model


def run(folder):
    """Returns the numbers of both pipelines."""
    how = DecomposeInTraining(1, "svd", "uniform", 3, HALF, first_layer=True, candidates=ANY_RANK)
    fitted = fit_with_decomposition(
        build(), how, epoch_data, epochs=4, backup_dir=folder / "decompose", verbose=0
    )
    config = RetrainConfig(
        CompressionConfig(HALF, candidates=ANY_RANK), (0.7, 0.5), epochs=3, retrain_epochs=2
    )
    data = RetrainData(epoch_data, split(64, 80), split(80, 96))
    rows = compress_retrain(build(), data, config, folder / "retrain")
    digest = hashlib.sha256()
    for weight in fitted.model.weights:
        digest.update(weight.numpy().tobytes())
    history = fitted.history.history
    return {
        "history": history,
        "weights": digest.hexdigest(),
        "rows": [row.to_json() for row in rows],
    }


def arm(moment, count):
    """Kills the process at the `count`th batch, write of an array, rename or saved model."""
    left = [count]

    def strike(*_):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(function):
        def struck(*arguments, **options):
            strike()
            return function(*arguments, **options)

        return struck

    if moment == "batch":
        callback = keras.callbacks.CallbackList
        callback.on_train_batch_end = before(callback.on_train_batch_end)
    elif moment == "write":  # between the arrays of a snapshot
        np.lib.format.write_array = before(np.lib.format.write_array)
    elif moment == "rename":
        pathlib.Path.replace = before(pathlib.Path.replace)
    elif moment == "save":
        keras.Model.save = before(keras.Model.save)


def main(folder, results, moment, count):
    """Runs both pipelines and writes what they came to, unless killed before."""
    if moment:
        arm(moment, count)
    results.write_text(json.dumps(run(folder)))
