"""Switching in mid-training: nothing is lost, and a killed run takes the same way."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.planning import full_rank_plan
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.rewriters.keras_restore import chains_of
from tfapprox.selection.problem import Budget
from tfapprox.training.decompose_in_training import DecomposeInTraining, fit_with_decomposition
from tfapprox.training.switching import decompose_model, plan_decomposition, reconstruct_model

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6, 6, 4)).astype("float32")
Y = RNG.integers(0, 3, 64)


@pytest.fixture(autouse=True)
def fresh_session():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session()


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


def test_one_history_one_beginning_and_the_schedule_goes_on():
    seen = []

    class Witness(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append("begin")

        def on_epoch_begin(self, epoch, logs=None):
            rate = float(self.model.optimizer.learning_rate.numpy())
            seen.append((epoch, len(list(chains_of(self.model))), round(rate, 3)))

        def on_train_end(self, logs=None):
            seen.append("end")

    result = fit(build(), settings(reconstruct_at=4), callbacks=[Witness()])
    epochs = [(0, 0, 0.05), (1, 0, 0.05), (2, 2, 0.05), (3, 2, 0.05), (4, 0, 0.02), (5, 0, 0.02)]
    assert seen == ["begin", *epochs, "end"]
    assert result.history.epoch == list(range(6))
    assert all(len(values) == 6 for values in result.history.history.values())
    assert int(result.model.optimizer.iterations) == 24
    assert result.model.history is result.history
    assert set(result.plan.choices) == {"stem", "middle"}


def test_old_slots_stay_and_new_kernels_start_with_none():
    model = build(keras.optimizers.Adam(0.01))
    model.fit(X, Y, verbose=0)
    plan = settings().plan(model)
    new = decompose_model(model, plan)
    old_slots = {v.path.partition("/")[2]: v.numpy() for v in model.optimizer.variables}
    new_slots = {v.path.partition("/")[2]: v.numpy() for v in new.optimizer.variables}
    for name, value in old_slots.items():
        if "kernel" in name and "logits" not in name:
            assert np.any(value) and not np.any(new_slots[name])
        else:
            np.testing.assert_array_equal(new_slots[name], value)
    assert not any(np.any(v) for name, v in new_slots.items() if "stage0" in name)
    assert int(new.optimizer.iterations) == 2


@pytest.mark.parametrize("decomposition", ["svd", "tucker2"])
def test_decomposing_and_reconstructing_at_full_rank_leaves_the_trajectory(decomposition):
    plain, switched = build(keras.optimizers.SGD(0.05)), build(keras.optimizers.SGD(0.05))
    for epoch in range(4):
        plain.fit(data(epoch), shuffle=False, verbose=0)
        if epoch == 2:
            plan = full_rank_plan(inspect_keras_model(switched), decomposition)
            decomposed = decompose_model(switched, plan)
            assert len(list(chains_of(decomposed))) == 3
            switched = reconstruct_model(decomposed)
        switched.fit(data(epoch), shuffle=False, verbose=0)
    assert_close(switched.get_weights(), plain.get_weights())


def test_reconstruction_computes_what_the_decomposed_model_does():
    model = build()
    decomposed = fit(model, settings(), epochs=3).model
    dense = reconstruct_model(decomposed)
    assert dense.count_params() == model.count_params() > decomposed.count_params()
    assert_close([dense(X).numpy()], [decomposed(X).numpy()])
    assert dense.evaluate(X, Y, verbose=0) == pytest.approx(decomposed.evaluate(X, Y, verbose=0))


def test_only_what_saves_parameters_and_macs_is_decomposed():
    model = build()
    inspection = inspect_keras_model(model)
    config = DecomposeInTraining(0, "svd", "alds", budget=Budget("params", keep=0.9)).compression
    plan = plan_decomposition(model, config)
    for verdict in plan.verdicts:
        if verdict.choice is None:
            assert verdict.reason and verdict.after == verdict.before
        else:
            assert verdict.after.params < verdict.before.params
            assert verdict.after.macs < verdict.before.macs
    assert len(plan.verdicts) == len(inspection.sites)


def test_first_layer_is_left_alone_unless_asked_for():
    how = DecomposeInTraining(0, "svd", "alds", budget=Budget("params", keep=0.8))
    plan = how.plan(build())
    assert "stem" not in plan.choices
    reasons = {verdict.site: verdict.reason for verdict in plan.verdicts}
    assert reasons["stem"].startswith("the first layer; first_layer=True")
    mine = dataclasses.replace(how, exclude="stem").plan(build())
    assert "--exclude" in next(v.reason for v in mine.verdicts if v.site == "stem")


@pytest.mark.parametrize(
    "at_epoch, reconstruct_at, missed",
    [(3, None, ["at_epoch=3"]), (1, 2, ["reconstruct_at=2"]), (1, None, []), (None, None, [])],
)
def test_a_switch_that_is_never_reached_is_told(at_epoch, reconstruct_at, missed, caplog):
    how = dataclasses.replace(settings(), at_epoch=at_epoch, reconstruct_at=reconstruct_at)
    result = fit(build(), how, epochs=2)
    assert (result.plan is None) == (at_epoch != 1)
    told = [record.message for record in caplog.records if "not reached" in record.message]
    assert [line.partition(" ")[0] for line in told] == missed


def test_a_switch_that_early_stopping_forestalls_is_told(caplog):
    stop = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=10.0)
    result = fit(build(), settings(at_epoch=4), callbacks=[stop])
    assert result.plan is None
    assert "at_epoch=4 is not reached in training that ends with epoch 1" in caplog.text


class KilledError(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Ends the process, as far as the training can tell, in an epoch's second batch."""

    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self._now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self._now == self._epoch and batch == 1:
            raise KilledError


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    result = fit(build(), settings(reconstruct_at=4), backup_dir=tmp_path_factory.mktemp("whole"))
    return result.history.history, result.model.get_weights()


@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_killed_runs_come_to_the_same_numbers(tmp_path, epoch, uninterrupted):
    how = settings(reconstruct_at=4)
    with pytest.raises(KilledError):
        fit(build(), how, backup_dir=tmp_path / "killed", callbacks=[Kill(epoch)])
    result = fit(build(seed=7), how, backup_dir=tmp_path / "killed")
    history, weights = uninterrupted
    assert result.history.history == history
    assert_close(result.model.get_weights(), weights, 0)


@pytest.mark.parametrize("epoch, chains", [(1, 0), (3, 2), (5, 0)])
def test_backup_and_restore_goes_on_on_the_right_side_of_the_switch(tmp_path, epoch, chains):
    how = settings(reconstruct_at=4)

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(KilledError):
        fit(build(), how, callbacks=[backup(), Kill(epoch)])
    seen = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda e, logs: seen.append((e, len(list(chains_of(count.model)))))
    )
    result = fit(build(seed=7), how, callbacks=[backup(), count])
    assert seen[0] == (epoch, chains)
    assert [e for e, _ in seen] == list(range(epoch, 6))
    assert int(result.model.optimizer.iterations) == 24


def test_other_callbacks_keep_working(tmp_path):
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)),
        keras.callbacks.EarlyStopping("loss", patience=0, min_delta=10.0),
    ]
    model = build(keras.optimizers.SGD(0.1))
    result = fit(model, settings(at_epoch=1), callbacks=callbacks)
    assert result.history.epoch == [0, 1]  # stopped, on the second epoch without progress
    np.testing.assert_allclose(result.history.history["learning_rate"], [0.1, 0.05])
    saved = [keras.models.load_model(tmp_path / f"{n}.keras") for n in (1, 2)]
    assert [len(list(chains_of(m))) for m in saved] == [0, 2]
    assert_close([saved[1](X).numpy()], [result.model(X).numpy()])


@pytest.mark.parametrize("per_batch", [False, True])
def test_tensorboard_shows_one_training(tmp_path, per_batch):
    pytest.importorskip("tensorboard")
    options = {"update_freq": 1 if per_batch else "epoch", "histogram_freq": int(per_batch)}
    board = keras.callbacks.TensorBoard(tmp_path, **options)
    result = fit(build(), settings(reconstruct_at=4), callbacks=[board])
    losses = {}
    for path in sorted((tmp_path / "train").glob("*.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == "epoch_loss":
                    losses[event.step] = float(tf.make_ndarray(value.tensor))
    np.testing.assert_allclose(
        [losses[epoch] for epoch in range(6)], result.history.history["loss"], rtol=1e-6
    )


def test_best_weights_of_another_structure_are_not_restored():
    stop = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True, mode="max")
    result = fit(build(), settings(at_epoch=2), epochs=4, callbacks=[stop])
    losses = result.history.history["loss"]
    assert stop.best == max(losses[2:])


def test_arrays_are_fitted_in_as_few_calls_as_there_are_structures():
    result = fit_with_decomposition(
        build(), settings(1), X, Y, epochs=2, batch_size=32, validation_split=0.25, verbose=0
    )
    assert len(result.history.history["val_accuracy"]) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"at_epoch": -1}, "at_epoch"),
        ({"at_epoch": 3, "reconstruct_at": 2}, "reconstruct_at"),
        ({"at_epoch": None, "reconstruct_at": 2}, "reconstruct_at"),
        ({"at_epoch": 1, "decomposition": "magic"}, "unknown decomposition"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        DecomposeInTraining(**arguments)


def test_uncompiled_models_and_other_backups_are_refused(tmp_path):
    model = keras.Sequential(
        [keras.Input((6, 6, 4)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    with pytest.raises(UserError, match="not compiled"):
        fit(model, settings())
    fit(build(), settings(), epochs=1, backup_dir=tmp_path)
    model.compile("sgd", "mse")
    with pytest.raises(UserError, match="another model"):
        fit(model, settings(), epochs=1, backup_dir=tmp_path)
