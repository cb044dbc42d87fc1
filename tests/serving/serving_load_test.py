"""The load benchmark's server answers as TF Serving does, and its load is bounded."""

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")

from benchmarks.serving_load import Load, drive, make_request, measure, served


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("load") / "model")
    module = tf.Module()
    module.kernel = tf.Variable(np.eye(3, 2, dtype=np.float32))
    spec = tf.TensorSpec([None, 3], name="x")
    serve = tf.function(lambda x: {"y": x @ module.kernel}, input_signature=[spec])
    tf.saved_model.save(module, path, signatures={"serving_default": serve})
    return path


def test_predict_answers_with_the_model_s_outputs(model):
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest.FromString(make_request(model, None, 4))
    x = tf.make_ndarray(request.inputs["x"])
    assert x.shape == (4, 3)
    with served(model, threads=1) as address, grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        np.testing.assert_array_equal(tf.make_ndarray(stub.Predict(request).outputs["y"]), x[:, :2])
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 5), np.float32)))
        with pytest.raises(grpc.RpcError, match="'x' must be"):
            stub.Predict(request)


def test_load_is_bounded_in_requests_and_in_time(model):
    request = make_request(model, None, 1)
    with served(model, threads=1) as address:
        rows = measure((address, address), request, Load((1, 3), rounds=2, requests=7))
        seconds, whole = drive(address, request, 2, Load(requests=100_000, seconds=0.2))
    assert [row.case for row in rows] == [{"clients": 1}, {"clients": 3}]
    for row in rows:
        for name in ("original", "compressed"):
            p50, p95, p99 = (row.values[f"{name}, p{percent} ms"] for percent in (50, 95, 99))
            assert 0 < p50 <= p95 <= p99
        ratio = row.ratios["throughput over the original's"]
        assert 0 < ratio.low <= ratio.median <= ratio.high
    assert 0 < len(seconds) < 100_000 and whole < 60


@pytest.mark.parametrize("settings", [{"clients": (64,)}, {"requests": 10**9}, {"seconds": 3600}])
def test_load_without_measure_is_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        Load(**settings)
