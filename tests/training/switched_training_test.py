"""A training that was killed goes on, on the right side of the switch."""

import keras
import pytest

from tests.training.tiny_decomposition import assert_close, build, fit, settings
from tfapprox.rewriters.keras_restore import chains_of


@pytest.fixture(autouse=True)
def fresh_session():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session()


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


def stoppers():
    return [
        keras.callbacks.EarlyStopping(
            "loss", patience=1, min_delta=0.01, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.01, factor=0.3),
    ]


def fit_until_stopped(folder, seed=0, more=()):
    model = build(keras.optimizers.SGD(0.02, momentum=0.9), seed)
    callbacks = [*stoppers(), *more]
    return fit(model, settings(), epochs=9, backup_dir=folder, callbacks=callbacks)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    result = fit_until_stopped(tmp_path_factory.mktemp("stopped"))
    assert 4 < len(result.history.epoch) < 9
    return result.history.history, result.model.get_weights()


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_killed_runs_stop_where_they_would_have(tmp_path, epoch, stopped):
    with pytest.raises(KilledError):
        fit_until_stopped(tmp_path, more=[Kill(epoch)])
    history, weights = stopped
    for _ in range(2):  # goes on; then there is nothing left to do
        result = fit_until_stopped(tmp_path, seed=7)
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


def test_all_callbacks_live_beside_each_other_through_switches_and_a_kill(tmp_path):
    pytest.importorskip("tensorboard")

    def callbacks():
        kinds = keras.callbacks
        return [
            kinds.BackupAndRestore(tmp_path / "backup"),
            kinds.ModelCheckpoint(tmp_path / "best.keras", "loss", save_best_only=True),
            kinds.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
            kinds.EarlyStopping("loss", patience=9, restore_best_weights=True),
            kinds.TensorBoard(tmp_path / "logs"),
            kinds.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)),
        ]

    how, rate = settings(reconstruct_at=4), keras.optimizers.SGD
    with pytest.raises(KilledError):
        fit(build(rate(0.1)), how, callbacks=[*callbacks(), Kill(3)])
    seen = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda e, logs: seen.append((e, len(list(chains_of(count.model)))))
    )
    result = fit(build(rate(0.1), seed=7), how, callbacks=[*callbacks(), count])
    assert seen == [(3, 2), (4, 0), (5, 0)]
    assert result.history.history["learning_rate"] == pytest.approx([0.1 / 4, 0.1 / 5, 0.1 / 6])
    assert all((tmp_path / f"{epoch}.weights.h5").exists() for epoch in range(1, 7))
    best = keras.models.load_model(tmp_path / "best.keras")
    assert best.count_params() == result.model.count_params()
    assert int(result.model.optimizer.iterations) == 24
    assert list((tmp_path / "logs" / "train").glob("*.tfevents.*"))
