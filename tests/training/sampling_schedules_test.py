import numpy as np
import pytest
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.crs_dense import CRSDense
from tfapprox.sampling.settings import Sampling
from tfapprox.training.sampling_schedules import SamplingSchedule, constant, warm_up


def model(ratio=0.5):
    model = keras.Sequential(
        [
            keras.Input((32,)),
            CRSDense(32, sampling=Sampling(forward_ratio=ratio), name="low"),
            CRSDense(1, sampling=Sampling(forward_ratio=ratio), name="high"),
        ]
    )
    model.compile("sgd", "mse", jit_compile=False)
    return model


def data():
    x = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    return x, x[:, :1]


def test_warm_up_falls_in_few_stairs_to_its_ratio():
    schedule = warm_up(0.2, epochs=8, steps=4)
    ratios = [schedule(epoch) for epoch in range(10)]
    np.testing.assert_allclose(ratios, [1, 1, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2])
    assert warm_up(0.2, epochs=0)(0) == 0.2


def test_each_layer_follows_the_first_schedule_that_matches_its_name():
    net = model()
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([layer.sampling.forward_ratio for layer in net.layers])

    schedule = SamplingSchedule({"low": lambda epoch: 1 - epoch / 4, "": constant(0.3)})
    net.fit(*data(), batch_size=64, epochs=3, verbose=0, callbacks=[schedule, Watch()])
    assert seen == [[1.0, 0.3], [0.75, 0.3], [0.5, 0.3]]


def test_a_new_ratio_reaches_the_compiled_train_step():
    # With one pair kept, only one row of the kernel learns in a step.
    changed = {}
    for name, schedule in (("few", constant(1 / 32)), ("all", constant(1.0))):
        net = model(0.5)
        net.fit(*data(), batch_size=64, verbose=0)
        before = net.get_layer("low").kernel.numpy()
        net.fit(*data(), batch_size=64, verbose=0, callbacks=[SamplingSchedule({"low": schedule})])
        rows = np.any(net.get_layer("low").kernel.numpy() != before, axis=1)
        changed[name] = rows.sum()
    assert changed == {"few": 1, "all": 32}


def test_a_ratio_in_the_place_of_a_schedule_is_refused():
    with pytest.raises(UserError, match=r"constant\(0.5\) stays there"):
        SamplingSchedule(0.5)
    with pytest.raises(UserError, match="steps=0"):
        warm_up(0.5, 3, steps=0)
    with pytest.raises(UserError, match="is not a regular expression"):
        SamplingSchedule({"(": constant(0.5)})


def test_a_schedule_for_no_layer_is_refused():
    with pytest.raises(UserError, match="'nowhere'"):
        model().fit(*data(), verbose=0, callbacks=[SamplingSchedule({"nowhere": constant(0.5)})])
