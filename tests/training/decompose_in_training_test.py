"""Switching in mid-training: one training, as far as schedule, History and callbacks can tell."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.tiny_decomposition import X, Y, assert_close, build, fit, settings
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_restore import chains_of
from tfapprox.selection.problem import Budget
from tfapprox.training.decompose_in_training import DecomposeInTraining, fit_with_decomposition


@pytest.fixture(autouse=True)
def fresh_session():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session()


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


def test_keras_itself_lets_no_other_layers_into_a_model_in_training():
    model = build()
    model.fit(X, Y, verbose=0)
    factor = keras.layers.Dense(3)
    factor.build((None, 12))
    with pytest.raises(ValueError, match="already built"):
        model.get_layer("logits").factor = factor
    with pytest.raises(ValueError, match=r"[Uu]nknown variable"):
        model.optimizer.apply([factor.kernel], [factor.kernel])
    step = model.train_function
    model.fit(X, Y, verbose=0)
    assert model.train_function is step


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
        ({"at_epoch": "2"}, "at_epoch must be the number of an epoch.*'2'"),
        ({"at_epoch": 1, "reconstruct_at": 2.5}, "reconstruct_at must be the number"),
        ({"at_epoch": 3, "reconstruct_at": 2}, "reconstruct_at"),
        ({"at_epoch": None, "reconstruct_at": 2}, "reconstruct_at"),
        ({"at_epoch": 1, "decomposition": "magic"}, "unknown decomposition"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        DecomposeInTraining(**arguments)


def test_a_model_with_nothing_to_decompose_is_refused_before_it_trains():
    with pytest.raises(UserError, match=r"of stem, middle, logits, include='nowhere'"):
        fit(build(), dataclasses.replace(settings(), include="nowhere"))
    with pytest.raises(UserError, match=r"write DecomposeInTraining\(at_epoch=1\)"):
        fit(build(), settings().compression)
    model = keras.Sequential([keras.Input((6, 6, 4)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(UserError, match="first_layer=False leave none"):
        fit(model, DecomposeInTraining(1, "svd", "alds"))


def test_a_budget_that_leaves_all_dense_is_told_with_the_reasons(caplog):
    result = fit(build(), DecomposeInTraining(0, "svd", "energy"), epochs=1)
    assert not result.plan.choices
    assert "no site is decomposed" in caplog.text
    assert "middle: the budget is met without it" in caplog.text


def test_a_single_callback_needs_no_list():
    seen = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    fit(build(), settings(1), epochs=2, callbacks=count)
    assert seen == [0, 1]


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
