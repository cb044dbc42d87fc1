"""What is approximated stays put, what is above it moves, and a kill loses nothing."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_graph import layers_by_path
from tfapprox.rewriters.keras_restore import chains_of
from tfapprox.selection.problem import Budget
from tfapprox.training.best_epoch import RetrainData
from tfapprox.training.staged_fine_tuning import (
    StagedFineTuning,
    freeze_up_to,
    staged_fine_tuning,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 12)).astype("float32")
Y = (X[:, :3] + 0.3 * RNG.normal(size=(96, 3))).argmax(1)


def split(begin, end):
    return tf.data.Dataset.from_tensor_slices((X[begin:end], Y[begin:end])).batch(16)


def epoch_data(epoch):
    order = np.random.default_rng(epoch).permutation(64)
    return tf.data.Dataset.from_tensor_slices((X[order], Y[order])).batch(16)


DATA = RetrainData(epoch_data, split(64, 80), split(80, 96))


@pytest.fixture(autouse=True)
def fresh_session():
    yield
    keras.backend.clear_session()


def trained(seed=0):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(16, activation="relu", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(16, activation="relu", name="second"),
            layers.Dropout(0.1, seed=3),
            layers.Dense(3, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sgd = keras.optimizers.SGD(0.2, momentum=0.9)
    model.compile(sgd, loss, metrics=["accuracy"])
    model.fit(epoch_data(0), verbose=0, shuffle=False)
    return model


def config(stages=(), exclude="logits", **others):
    compression = CompressionConfig(
        Budget("params", keep=others.pop("keep", 0.6)),
        others.pop("selector", "uniform"),
        exclude=exclude,
        candidates=CandidateOptions(rank_multiple=others.pop("rank_multiple", 1)),
    )
    return StagedFineTuning(compression, others.pop("epochs", 2), stages, **others)


def weights(model):
    layers = layers_by_path(model)
    return {f"{path}/{w.name}": w.numpy() for path, x in layers.items() for w in x.weights}


def load_stage(folder, number):
    return keras.models.load_model(folder / f"stage-{number}" / "model.keras")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *staged_fine_tuning(trained(), DATA, config(), folder)


def test_every_stage_replaces_its_sites_and_the_end_meets_the_budget(whole):
    folder, model, rows = whole
    assert [row.method for row in rows] == ["stage 1: first", "stage 2: second"]
    models = [load_stage(folder, n) for n in (1, 2)]
    chains = [[chain.path for chain in chains_of(m)] for m in (*models, model)]
    assert chains == [["first"], ["first", "second"], ["first", "second"]]
    assert [m.count_params() for m in models] == [row.params for row in rows]
    assert rows[0].params_ratio > rows[1].params_ratio <= 0.6
    assert model.evaluate(DATA.test, verbose=0)[1] == pytest.approx(rows[1].test)


def test_what_is_below_a_stage_is_frozen_until_the_end(whole):
    folder, model, _ = whole
    first, second = (weights(load_stage(folder, n)) for n in (1, 2))
    for name in ("first_stage0/kernel", "first/kernel", "norm/gamma", "norm/moving_mean"):
        np.testing.assert_array_equal(first[name], second[name])
    assert len(model.trainable_variables) == len(model.weights) - 2  # moving statistics
    model.fit(epoch_data(9), verbose=0, shuffle=False)
    after = weights(model)
    assert all(np.any(after[name] != second[name]) for name in ("first_stage0/kernel", "norm/beta"))


def test_what_is_above_a_stage_is_trained(tmp_path):
    model = trained()
    before = weights(model)
    data = RetrainData(epoch_data, split(0, 64), DATA.test)
    _, (row,) = staged_fine_tuning(
        model, data, config(exclude="second|logits", keep=0.9, epochs=3), tmp_path
    )
    assert row.epoch > 0  # fitting the training data, it gets better there
    after = weights(load_stage(tmp_path, 1))
    for name in ("norm/gamma", "norm/moving_mean", "second/kernel", "logits/bias"):
        assert np.any(before[name] != after[name])
    np.testing.assert_array_equal(before["first/bias"], after["first/bias"])


def test_above_the_last_layer_there_is_nothing_to_train(tmp_path):
    stages = ("first|second", "logits")
    _, rows = staged_fine_tuning(trained(), DATA, config(stages, exclude=None), tmp_path)
    assert rows[0].params_ratio > rows[1].params_ratio
    assert rows[1].epoch == 2


def test_ranks_can_follow_the_accuracy(tmp_path):
    # Each rank is a model to evaluate.
    greedy = config(selector="greedy", epochs=0, rank_multiple=2)
    _, rows = staged_fine_tuning(trained(), DATA, greedy, tmp_path)
    assert rows[-1].params_ratio <= 0.6
    assert (tmp_path / "scores.json").exists()


class KilledError(Exception):
    pass


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_killed_runs_come_to_the_same_rows(whole, tmp_path, calls):
    count = itertools.count()

    def train(epoch):
        if next(count) == calls:
            raise KilledError
        return epoch_data(epoch)

    model = trained()
    with pytest.raises(KilledError):
        staged_fine_tuning(model, RetrainData(train, DATA.valid, DATA.test), config(), tmp_path)
    again, rows = staged_fine_tuning(model, DATA, config(), tmp_path)
    assert rows == whole[2]
    ours, theirs = weights(again), weights(load_stage(whole[0], 2))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])


def test_branches_beside_an_approximated_layer_stay_trainable():
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="low"), layers.Dense(4, name="high")], name="inner"
    )
    x = inputs = keras.Input((4,))
    x = layers.Dense(4, name="stem")(x)
    left = inner(x)
    right = layers.Dense(4, name="right")(x)
    model = keras.Model(inputs, layers.Add(name="add")([left, right]))
    freeze_up_to(model, ["inner/low"])
    frozen = [path for path, layer in layers_by_path(model).items() if not layer.trainable]
    assert frozen == ["stem", "inner/low"]
    freeze_up_to(model, ["add"])
    assert not model.trainable_variables


@pytest.mark.parametrize(
    "stages, message", [(("first", "magic"), "'magic' names no site"), (("first",), "second")]
)
def test_stages_that_do_not_fit_are_refused(tmp_path, stages, message):
    with pytest.raises(UserError, match=message):
        staged_fine_tuning(trained(), DATA, config(stages), tmp_path)


def test_a_stage_that_is_no_tuple_is_refused():
    with pytest.raises(UserError, match=r"write \('first',\)"):
        config("first")
