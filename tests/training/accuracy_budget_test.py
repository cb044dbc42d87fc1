"""Few trials, the right one taken, nothing done twice."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.selection.problem import Budget
from tfapprox.training import accuracy_budget
from tfapprox.training.accuracy_budget import compress_within_drop
from tfapprox.training.best_epoch import RetrainData
from tfapprox.training.compress_retrain import RetrainConfig, load_model
from tfapprox.training.trade_off import TradeOff

KEEPS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 12)).astype("float32")
Y = (X[:, :3] + 0.3 * RNG.normal(size=(96, 3))).argmax(1)


def config(mode="compress_only", selector="greedy", keeps=KEEPS):
    compression = CompressionConfig(
        Budget("params", keep=0.5), selector, candidates=CandidateOptions(rank_multiple=2)
    )
    return RetrainConfig(compression, keeps, epochs=2, retrain_epochs=1, mode=mode)


def row(method, keep, valid):
    return TradeOff(method, 0, keep, round(1000 * keep), 1, keep, keep, 1, valid, 0.0)


@pytest.mark.parametrize(
    "drop, keep, tried",
    [(0.0, None, [0.6, 0.8, 0.9]), (0.05, 0.9, [0.6, 0.8, 0.9]), (0.25, 0.5, [0.6, 0.4, 0.5])],
)
def test_the_smallest_ratio_within_the_drop_is_found_by_bisection(monkeypatch, drop, keep, tried):
    def stand_in(model, data, config, folder):
        (keep,) = config.keeps
        return [row("dense", 1.0, 0.9), row("greedy", keep, 0.9 - (1 - keep) / 2.1)]

    monkeypatch.setattr(accuracy_budget, "compress_retrain", stand_in)
    found = compress_within_drop(None, None, config(), drop, "folder")
    assert [trial.keep for trial in found.trials] == tried
    assert found.dense.keep == 1.0
    assert (found.chosen.keep if found.chosen else None) == keep


def test_ratios_out_of_reach_count_as_lossy(monkeypatch):
    def stand_in(model, data, config, folder):
        reached = config.keeps[0] >= 0.6
        return [row("dense", 1.0, 0.9), *[row("greedy", config.keeps[0], 0.9)] * reached]

    monkeypatch.setattr(accuracy_budget, "compress_retrain", stand_in)
    found = compress_within_drop(None, None, config(), 0.0, "folder")
    assert found.chosen.keep == 0.6


def build():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(16, activation="relu", name="first"),
            keras.layers.Dense(16, activation="relu", name="second"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


def test_a_search_is_resumed_and_its_model_handed_over(tmp_path):
    evaluated = []

    def split(begin, end):
        return tf.data.Dataset.from_tensor_slices((X[begin:end], Y[begin:end])).batch(16)

    def train(epoch):
        evaluated.append(epoch)
        return split(0, 64)

    data = RetrainData(train, split(64, 80), split(80, 96))
    found = compress_within_drop(build(), data, config(keeps=(0.9, 0.6, 0.3)), 0.2, tmp_path)
    assert found.chosen is not None and found.chosen.valid >= found.dense.valid - 0.2
    model = load_model(tmp_path, found.chosen, "compress_only")
    assert model.count_params() == found.chosen.params <= 0.9 * build().count_params()
    assert model.evaluate(data.valid, verbose=0)[1] == pytest.approx(found.chosen.valid)
    scores = (tmp_path / "scores.json").stat().st_mtime_ns
    again = compress_within_drop(build(), data, config(keeps=(0.9, 0.6, 0.3)), 0.2, tmp_path)
    assert again == found
    assert evaluated == [0, 1]  # the dense training, once
    assert (tmp_path / "scores.json").stat().st_mtime_ns == scores


@pytest.mark.parametrize(
    "mode, drop, message", [("iterative", 0.1, "mode"), ("one_shot", -0.1, "drop")]
)
def test_what_makes_no_sense_is_refused(tmp_path, mode, drop, message):
    with pytest.raises(UserError, match=message):
        compress_within_drop(None, None, config(mode), drop, tmp_path)
