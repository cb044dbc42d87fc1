"""The warmup record is what TF Serving's own messages say, and the model can replay it."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.warmup import WARMUP_FILE, read_warmup, write_warmup

pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")


class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(np.arange(6, dtype=np.float32).reshape(3, 2))

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")])
    def serve(self, x):
        return {"y": x @ self.kernel}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="text"),
            tf.TensorSpec([2], tf.bfloat16, name="fixed"),
        ]
    )
    def texts(self, text, fixed):
        tf.debugging.assert_none_equal(text, "bad", message="bad text")
        return {"length": tf.strings.length(text), "fixed": fixed}


@pytest.fixture
def model(tmp_path):
    module = Model()
    signatures = {"serving_default": module.serve, "texts": module.texts}
    tf.saved_model.save(module, str(tmp_path / "model"), signatures)
    return tmp_path / "model"


def logs(model):
    """The record, read with TensorFlow's and TF Serving's own means alone."""
    from tensorflow_serving.apis import prediction_log_pb2

    records = tf.data.TFRecordDataset(str(model / WARMUP_FILE)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(record) for record in records]


def test_requests_are_predict_logs_of_one_example_and_of_all(model):
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    write_warmup(model, {"x": x})
    first, whole = logs(model)
    for log, want in ((first, x[:1]), (whole, x)):
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.predict_log.request.model_spec.signature_name == "serving_default"
        (pair,) = log.predict_log.request.inputs.items()
        assert pair[0] == "x"
        np.testing.assert_array_equal(tf.make_ndarray(pair[1]), want)
    assert [p.name for p in (model / "assets.extra").iterdir()] == [WARMUP_FILE.name]


def test_the_record_replays_through_the_servers_loader(model):
    texts = np.array(["grün", "long text", ""])
    fixed = np.array([1, 2], tf.bfloat16.as_numpy_dtype)
    write_warmup(model, {"text": texts, "fixed": fixed}, "texts")
    with CcSession(str(model)) as session:
        answers = [session.run(inputs, name) for name, inputs in read_warmup(model)]
    assert [answer["length"].tolist() for answer in answers] == [[5], [5, 9, 0]]
    assert all(answer["fixed"].dtype == fixed.dtype for answer in answers)


def test_one_example_is_asked_for_once(model):
    write_warmup(model, {"x": np.ones((1, 3), np.float32)})
    assert len(logs(model)) == 1


def test_an_older_record_is_replaced(model):
    write_warmup(model, {"x": np.zeros((4, 3), np.float32)})
    write_warmup(model, {"x": np.ones((1, 3), np.float32)})
    ((_, inputs),) = read_warmup(model)
    np.testing.assert_array_equal(inputs["x"], np.ones((1, 3)))


def test_a_request_that_fails_is_not_written(model):
    with pytest.raises(UserError, match="bad text"):
        write_warmup(
            model,
            {"text": np.array(["good", "bad"]), "fixed": np.zeros(2, tf.bfloat16.as_numpy_dtype)},
            "texts",
        )
    with pytest.raises(UserError, match="'x'"):
        write_warmup(model, {"x": np.zeros((4, 5), np.float32)})
    assert not (model / WARMUP_FILE).exists()


def test_a_damaged_or_missing_record_is_told(model):
    with pytest.raises(UserError, match="no warmup record"):
        list(read_warmup(model))
    write_warmup(model, {"x": np.ones((1, 3), np.float32)})
    (model / WARMUP_FILE).write_bytes((model / WARMUP_FILE).read_bytes()[:-5])
    with pytest.raises(UserError, match="no record of PredictionLogs"):
        list(read_warmup(model))


def test_a_missing_extra_is_named_with_its_pip_line(model, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "tensorflow_serving" else find(n)
    )
    with pytest.raises(UserError, match=r"pip install 'tfapprox\[serving\]'"):
        write_warmup(model, {"x": np.ones((1, 3), np.float32)})
