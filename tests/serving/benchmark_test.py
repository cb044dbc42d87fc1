"""Tests of the measurement in a fresh process."""

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.serving.benchmark import LatencyRequest, measure_saved_models
from tfapprox.serving.latency import TimingOptions
from tfapprox.serving.signature import read_signatures

QUICK = TimingOptions(warm_up_rounds=1, min_rounds=2, min_seconds=0)


class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(tf.ones([3]))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 3], tf.bfloat16, name="x"),
            tf.TensorSpec([None], tf.string, name="name"),
        ]
    )
    def serve(self, x, name):
        return {"y": tf.cast(x, tf.float32) * self.weight, "name": name}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("benchmark") / "model")
    module = Model()
    tf.saved_model.save(module, path, module.serve.get_concrete_function())
    return path


@pytest.fixture
def inputs():
    x = tf.ones([2, 3], tf.bfloat16).numpy()
    return {"x": x, "name": np.array(["é", b"b"], dtype=object)}


def test_both_models_are_measured_at_every_batch_size(model, inputs):
    request = LatencyRequest(model, model, batch_sizes=(1, 5), threads=1, options=QUICK)
    latencies = measure_saved_models(request, inputs)
    assert [latency.batch_size for latency in latencies] == [1, 5]
    for latency in latencies:
        assert (latency.loader, latency.threads, latency.rounds) == ("C++", 1, 2)
        assert latency.tensorflow_version == tf.__version__
        assert latency.original.p50 > 0 and latency.compressed.p50 > 0


def test_what_the_cxx_loader_can_not_run_is_measured_in_python(tmp_path):
    keras_model = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(2)])
    path = str(tmp_path / "plain")
    tf.saved_model.save(keras_model, path)
    (key,) = read_signatures(path)["serving_default"].inputs
    request = LatencyRequest(path, path, threads=1, options=QUICK)
    (latency,) = measure_saved_models(request, {key: np.ones((1, 3), np.float32)})
    assert latency.loader == "Python"


def test_mistakes_come_back_from_the_process_as_one_line(model, inputs, tmp_path):
    with pytest.raises(UserError, match="no signature 'other'; it has serving_default"):
        measure_saved_models(LatencyRequest(model, model, "other", options=QUICK), inputs)
    with pytest.raises(UserError, match="nothing is not a SavedModel"):
        measure_saved_models(
            LatencyRequest(model, str(tmp_path / "nothing"), options=QUICK), inputs
        )


def test_models_with_other_inputs_can_not_be_compared(model, inputs, tmp_path):
    module = tf.Module()
    signature = tf.function(lambda z: {"y": z}).get_concrete_function(tf.TensorSpec([1], name="z"))
    tf.saved_model.save(module, str(tmp_path / "other"), signature)
    with pytest.raises(UserError, match=r"other takes inputs \['z'\], that of .*\['name', 'x'\]"):
        measure_saved_models(LatencyRequest(model, str(tmp_path / "other"), options=QUICK), inputs)


@pytest.mark.parametrize("settings", [{"batch_sizes": (0,)}, {"batch_sizes": ()}, {"threads": 0}])
def test_settings_are_checked(settings):
    with pytest.raises(UserError, match="must be"):
        LatencyRequest("a", "b", **settings)
