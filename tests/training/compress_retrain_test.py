"""The pipeline at a tiny size: ratios kept, the schedule rewound, nothing lost by a kill."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_restore import chains_of
from tfapprox.selection.problem import Budget
from tfapprox.training import compress_retrain as compress_retrain_module
from tfapprox.training.compress_retrain import (
    RetrainConfig,
    RetrainData,
    cascade,
    compress_retrain,
    load_model,
)
from tfapprox.training.switching import decompose_model

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 12)).astype("float32")
Y = (X[:, :3] + 0.3 * RNG.normal(size=(96, 3))).argmax(1)
STEPS = 4


def split(begin, end):
    return tf.data.Dataset.from_tensor_slices((X[begin:end], Y[begin:end])).batch(16)


def epoch_data(epoch):
    order = np.random.default_rng(epoch).permutation(64)
    return tf.data.Dataset.from_tensor_slices((X[order], Y[order])).batch(16)


DATA = RetrainData(epoch_data, split(64, 80), split(80, 96))


def build(seed=0):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(16, activation="relu", name="first"),
            layers.Dense(16, activation="relu", name="second"),
            layers.Dense(3, name="logits"),
        ]
    )
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2 * STEPS], [0.1, 0.01])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sgd = keras.optimizers.SGD(schedule, momentum=0.9)
    model.compile(sgd, loss, metrics=["accuracy"])
    return model


def config(mode="one_shot", keeps=(0.7, 0.5), **others):
    compression = CompressionConfig(
        Budget("params", keep=0.5), candidates=CandidateOptions(rank_multiple=1)
    )
    return RetrainConfig(compression, keeps, epochs=3, retrain_epochs=2, mode=mode, **others)


@pytest.fixture(autouse=True)
def fresh_session():
    yield
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def one_shot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_shot")
    return folder, compress_retrain(build(), DATA, config(), folder)


def test_every_ratio_is_kept_and_its_best_model_handed_over(one_shot):
    folder, rows = one_shot
    assert [(row.method, row.keep) for row in rows] == [("dense", 1), ("alds", 0.7), ("alds", 0.5)]
    for row in rows:
        assert row.params_ratio <= row.keep
        model = load_model(folder, row)
        assert model.count_params() == row.params
        for data, accuracy in ((DATA.valid, row.valid), (DATA.test, row.test)):
            assert model.evaluate(data, verbose=0)[1] == pytest.approx(accuracy)


def test_retraining_takes_the_last_epochs_of_the_schedule_again(tmp_path):
    seen = []

    def train(epoch):
        seen.append(epoch)
        return epoch_data(epoch)

    compress_retrain(build(), RetrainData(train, DATA.valid, DATA.test), config(), tmp_path)
    assert seen == [0, 1, 2, 1, 2, 1, 2]
    content = np.load(tmp_path / "alds-one_shot-0.5000" / "training.npz")
    assert '"steps": 12' in str(content["record"])


def test_compressing_only_trains_no_more(one_shot, tmp_path):
    folder, rows = one_shot
    compressed = compress_retrain(build(), DATA, config("compress_only"), folder)
    assert compressed[0] == rows[0]
    assert [row.epoch for row in compressed[1:]] == [3, 3]
    assert [row.params for row in compressed] == [row.params for row in rows]


def test_each_step_of_a_cascade_starts_from_the_retrained_model_before(tmp_path, monkeypatch):
    sources = []

    def watched(source, plan):
        sources.append(source)
        return decompose_model(source, plan)

    monkeypatch.setattr(compress_retrain_module, "decompose_model", watched)
    rows = compress_retrain(build(), DATA, config("iterative", cascade(0.6)), tmp_path)
    assert [row.keep for row in rows[1:]] == pytest.approx([0.8, 0.64, 0.512])
    models = [load_model(tmp_path, row, "iterative") for row in rows]
    assert all(row.params_ratio <= row.keep for row in rows)
    assert [bool(list(chains_of(model))) for model in models] == [False, True, True, True]
    for source, model in zip(sources, models, strict=False):
        assert not list(chains_of(source))
        np.testing.assert_allclose(source(X), model(X), atol=1e-5)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("calls", [2, 4, 6])
def test_killed_runs_come_to_the_same_rows(one_shot, tmp_path, calls):
    count = itertools.count()

    def train(epoch):
        if next(count) == calls:
            raise KilledError
        return epoch_data(epoch)

    dying = RetrainData(train, DATA.valid, DATA.test)
    with pytest.raises(KilledError):
        compress_retrain(build(), dying, config(), tmp_path)
    assert compress_retrain(build(seed=5), DATA, config(), tmp_path) == one_shot[1]


def test_a_finished_run_is_not_done_again(one_shot):
    folder, rows = one_shot

    def refuse(epoch):
        raise AssertionError("trained again")

    done = RetrainData(refuse, DATA.valid, DATA.test)
    assert compress_retrain(build(), done, config(), folder) == rows


def test_ratios_out_of_reach_end_the_list(tmp_path):
    rows = compress_retrain(build(), DATA, config("compress_only", (0.5, 0.001)), tmp_path)
    assert [row.keep for row in rows] == [1, 0.5]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "twice"}, "mode"),
        ({"keeps": (0.5, 0.7)}, "falling"),
        ({"keeps": (1.0,)}, "falling"),
        ({"keeps": 0.5}, "tuple of ratios"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        config(**arguments)


def test_data_that_are_no_function_of_the_epoch_are_refused():
    with pytest.raises(UserError, match=r"train=lambda epoch: data"):
        dataclasses.replace(DATA, train=DATA.valid)
    with pytest.raises(UserError, match=r"valid=\.\.\.\) must be batches"):
        dataclasses.replace(DATA, valid=(np.zeros((4, 2)), np.zeros(4)))


def test_a_model_without_accuracy_is_refused(tmp_path):
    model = build()
    model.compile("sgd", model.loss)
    with pytest.raises(UserError, match="accuracy"):
        compress_retrain(model, DATA, config(), tmp_path)


@pytest.mark.parametrize("method", ["ft", "pfp"])
@pytest.mark.parametrize("mode", ["one_shot", "iterative"])
def test_channels_are_removed_and_the_rest_retrained(method, mode, tmp_path):
    compression = CompressionConfig(Budget("params", keep=0.5), decompositions=(method,))
    settings = dataclasses.replace(config(mode, name=method), compression=compression)
    rows = compress_retrain(build(), DATA, settings, tmp_path)
    assert [(row.method, row.keep) for row in rows] == [("dense", 1), (method, 0.7), (method, 0.5)]
    assert all(row.params_ratio <= row.keep for row in rows)
    small = load_model(tmp_path, rows[-1], mode)
    assert small.get_layer("second").units < 16 == build().get_layer("second").units
    assert compress_retrain(build(), DATA, settings, tmp_path) == rows


def test_a_model_that_is_not_in_the_folder_is_named(one_shot, tmp_path):
    folder, rows = one_shot
    with pytest.raises(UserError, match=r"alds-one_shot-0\.7000/model\.keras is not there: give"):
        load_model(tmp_path, rows[1])
    with pytest.raises(UserError, match="and the mode"):
        load_model(folder, rows[1], "iterative")
