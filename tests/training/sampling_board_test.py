import importlib.util
import sys

import numpy as np
import pytest
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.rewriters.approximate_training import (
    ApproximateTrainingConfig,
    approximate_training,
)
from tfapprox.sampling.settings import Sampling
from tfapprox.training.sampling_board import SamplingBoard
from tfapprox.training.sampling_schedules import SamplingSchedule

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="TensorBoard is not installed: pip install 'tfapprox[tensorboard]'",
)
X = np.random.default_rng(0).normal(size=(32, 20)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


def sampled_model(variant="nps"):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(16, name="hidden"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dense(2, name="out"),
        ]
    )
    settings = ApproximateTrainingConfig(Sampling(variant, 0.5, min_samples=1), include="hidden")
    sampled, _ = approximate_training(model, settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sampled.compile(keras.optimizers.SGD(0.1), loss)
    return sampled


def fit(model, *callbacks):
    model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["tensors"]
    return {tag: [event.tensor_proto for event in accumulator.Tensors(tag)] for tag in tags}


def numbers(protos):
    import tensorflow as tf

    return [tf.make_ndarray(proto).tolist() for proto in protos]


@needs_tensorboard
def test_ratios_and_kept_channels_can_be_read_from_the_event_file(tmp_path):
    schedule = SamplingSchedule(lambda epoch: (0.5, 0.25)[epoch])
    fit(sampled_model(), schedule, SamplingBoard(tmp_path, (X[:16], Y[:16])))
    found = events(tmp_path)
    assert numbers(found["forward_ratio/hidden"]) == [0.5, 0.25]
    assert numbers(found["kept_share/hidden"]) == pytest.approx([0.5, 0.25])
    histograms = numbers(found["kept_channels/hidden"])
    assert [sum(bucket[2] for bucket in histogram) for histogram in histograms] == [10, 5]
    assert not [tag for tag in found if "out" in tag]


@needs_tensorboard
def test_looking_changes_nothing_in_the_training(tmp_path):
    watched = fit(sampled_model(), SamplingBoard(tmp_path, (X[:16], Y[:16])))
    alone = fit(sampled_model())
    for ours, theirs in zip(watched.variables, alone.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@needs_tensorboard
def test_a_model_without_samples_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(2)], name="plain")
    model.compile(loss="mse")
    with pytest.raises(UserError, match="'plain' has no sampled layer"):
        fit(model, SamplingBoard(tmp_path))


def test_without_tensorboard_the_remedy_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'tfapprox\[tensorboard\]'"):
        SamplingBoard(tmp_path)
