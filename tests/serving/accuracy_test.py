"""Accuracy counts what the model gets right, and refuses what it can't judge."""

import numpy as np
import pytest
import tensorflow as tf

from tfapprox import compress_model, compress_saved_model
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError
from tfapprox.selection.problem import Budget
from tfapprox.serving.accuracy import accuracy, read_labelled, read_labels
from tfapprox.serving.signature import Signature, TensorSpec

GREEDY = CompressionConfig(Budget("params", keep=0.8), selector="greedy")


class Identity(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def serve(self, x):
        return {"y": x}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def total(self, x):
        return {"y": tf.reduce_sum(x)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("accuracy") / "model")
    module = Identity()
    signatures = {"serving_default": module.serve, "total": module.total}
    tf.saved_model.save(module, path, signatures)
    return path


def test_the_share_of_right_answers_over_all_batches(path):
    labels = np.arange(150) % 3
    x = np.eye(3, dtype=np.float32)[labels]
    labels[:30] = (labels[:30] + 1) % 3
    assert accuracy(path, {"x": x}, labels) == pytest.approx(0.8)


def test_outputs_without_classes_are_refused(path):
    with pytest.raises(UserError, match="not one score for each class"):
        accuracy(path, {"x": np.eye(3, dtype=np.float32)}, np.arange(3), signature="total")


def test_labels_that_do_not_fit_are_refused(tmp_path):
    inputs = {"x": np.zeros((3, 3), np.float32)}
    for labels in (np.zeros(3), np.zeros(2, int), np.zeros((3, 1), int)):
        np.save(tmp_path / "labels.npy", labels)
        with pytest.raises(UserError):
            read_labels(str(tmp_path / "labels.npy"), inputs)
    with pytest.raises(UserError, match="can't be read"):
        read_labels(str(tmp_path / "none.npy"), inputs)
    np.save(tmp_path / "labels.npy", np.arange(3))
    assert list(read_labels(str(tmp_path / "labels.npy"), inputs)) == [0, 1, 2]


@pytest.fixture(scope="module")
def sensitive():
    """A model whose layer "noise" does not matter for the output, and "signal" does."""
    from tensorflow import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((32,), name="x")
    noise = keras.layers.Dense(32, name="noise")(x)
    signal = keras.layers.Dense(32, name="signal")(x)
    return keras.Model(x, keras.layers.Add(name="y")([0.01 * noise, signal]))


def test_greedy_cuts_where_the_score_allows_it_in_both_kinds_of_model(sensitive, tmp_path):
    x = np.random.default_rng(0).standard_normal((60, 32)).astype(np.float32)
    labels = np.asarray(sensitive(x)).argmax(axis=1)

    def score(model):
        return float(np.mean(np.asarray(model(x)).argmax(axis=1) == labels))

    _, report = compress_model(sensitive, GREEDY, evaluate=score)
    assert [name for name in report.plan.choices] == ["noise"]

    sensitive.export(tmp_path / "model", verbose=False)
    report = compress_saved_model(
        tmp_path / "model",
        tmp_path / "small",
        GREEDY,
        evaluate=lambda path: accuracy(path, {"x": x}, labels),
        scores=tmp_path / "scores.json",
        batch_sizes=(),
    )
    assert len(report.plan.choices) == 1 and "noise" in next(iter(report.plan.choices))
    assert (tmp_path / "scores.json").exists()


def test_greedy_without_an_evaluation_is_refused(sensitive):
    with pytest.raises(UserError, match="evaluate function"):
        compress_model(sensitive, GREEDY)


def test_labels_may_come_with_their_inputs(tmp_path):
    sig = Signature({"x": TensorSpec("x:0", "float32", (None, 3))}, {})
    x = np.zeros((2, 3), np.float32)
    for key in ("label", "labels"):
        np.savez(tmp_path / "in.npz", x=x, **{key: np.array([0, 2])})
        inputs, labels = read_labelled(str(tmp_path / "in.npz"), sig)
        assert inputs["x"].shape == (2, 3) and list(labels) == [0, 2]
    for arrays in ({"x": x}, {"x": x, "labels": np.zeros(2)}, {"labels": np.arange(2)}):
        np.savez(tmp_path / "in.npz", **arrays)
        with pytest.raises(UserError):
            read_labelled(str(tmp_path / "in.npz"), sig)
