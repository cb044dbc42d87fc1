"""What the original runs on, the compressed model runs on: other loaders and converters.

Each converter gets the original first; only where that works does the result count.
"""

import importlib.util
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.factorizing import factorize_plan
from tfapprox.planning import full_rank_plan
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.serving.cc_loader import CcSession


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Directories of a small convolutional network and of its factorized form."""
    from tensorflow import keras

    folder = tmp_path_factory.mktemp("elsewhere")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((8, 8, 4), batch_size=2, name="x"),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(4),
        ]
    )
    net.export(str(folder / "model"), verbose=False)
    opened = open_saved_model(folder / "model")
    plan = full_rank_plan(opened.inspection)
    _, factorizations = factorize_plan(opened.inspection, plan, SpectrumCache())
    assert len(factorizations) == 4
    write_saved_model(opened, factorizations, folder / "small")
    return str(folder / "model"), str(folder / "small")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((2, 8, 8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def wanted(models, x):
    with CcSession(models[0]) as session:
        (key,) = session.signatures["serving_default"].inputs
        (value,) = session.run({key: x}).values()
        return value


def assert_same(got, wanted):
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


def test_saved_model_cli_runs_it(models, x, wanted, tmp_path):
    (key,) = CcSession(models[1]).signatures["serving_default"].inputs
    np.save(tmp_path / "x.npy", x)
    program = "import sys; from tensorflow.python.tools.saved_model_cli import main; main()"
    command = [sys.executable, "-c", program, "run", "--dir", models[1], "--tag_set", "serve"]
    command += ["--signature_def", "serving_default", "--inputs", f"{key}={tmp_path / 'x.npy'}"]
    command += ["--outdir", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ})
    (output,) = (path for path in tmp_path.glob("*.npy") if path.name != "x.npy")
    assert_same(np.load(output), wanted)


def test_tflite_converts_and_runs_it(models, x, wanted):
    for path in models:
        content = tf.lite.TFLiteConverter.from_saved_model(path).convert()
        with pytest.warns(UserWarning, match="LiteRT interpreter"):
            interpreter = tf.lite.Interpreter(model_content=content)
        (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(source["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        assert_same(interpreter.get_tensor(target["index"]), wanted)


@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
def test_openvino_converts_and_runs_it(models, x, wanted):
    import openvino

    for path in models:
        compiled = openvino.Core().compile_model(openvino.convert_model(path), "CPU")
        (got,) = compiled([x]).values()
        assert_same(got, wanted)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tf2onnx", "onnxruntime")),
    reason="tf2onnx and onnxruntime are not installed",
)
def test_onnx_converts_and_runs_it(models, x, wanted, tmp_path):
    import onnxruntime

    targets = [str(tmp_path / name) for name in ("model.onnx", "small.onnx")]
    # In a process of its own: tf2onnx changes settings of TensorFlow's for good.
    program = "import sys; from tf2onnx import convert\n"
    program += "for path, target in zip(sys.argv[1::2], sys.argv[2::2]):\n"
    program += "    sys.argv[1:] = ['--saved-model', path, '--output', target, '--opset', '17']\n"
    program += "    convert.main()"
    pairs = [word for pair in zip(models, targets, strict=True) for word in pair]
    command = [sys.executable, "-c", program, *pairs]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ})
    for target in targets:
        session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
        (got,) = session.run(None, {source.name: x})
        assert_same(got, wanted)


@pytest.mark.skipif(
    shutil.which("tensorflow_model_server") is None,
    reason="tensorflow_model_server is not on PATH",
)
def test_the_real_model_server_serves_it(models, x, wanted, tmp_path):
    import json
    import socket
    import time
    import urllib.request

    from tfapprox.serving.package import package_saved_model

    package_saved_model(models[1], "net", tmp_path, 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["tensorflow_model_server", "--port=0", f"--rest_api_port={port}"]
    command += ["--model_name=net", f"--model_base_path={tmp_path / 'net'}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/models/net:predict",
            json.dumps({"instances": x.tolist()}).encode(),
        )
        for _ in range(60):
            try:
                answer = json.load(urllib.request.urlopen(request, timeout=10))
                break
            except OSError:
                assert server.poll() is None, "the server ended"
                time.sleep(1)
        assert_same(np.array(answer["predictions"], np.float32), wanted)
    finally:
        server.terminate()
        server.wait(30)
