"""What Keras offers for its own models works on compressed ones: they are stock layers."""

import importlib.util
import sys
import warnings

import numpy as np
import pytest
from tensorflow import keras

from tfapprox.compression import compress_model
from tfapprox.config import CompressionConfig
from tfapprox.selection.problem import Budget
from tfapprox.serving.cc_loader import CcSession

X = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
layers = keras.layers

pytestmark = [
    # Of Keras and its converters, with numpy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning"),
]


@pytest.fixture(scope="module")
def compressed():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv_1")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_2")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(64, activation="relu", name="dense_1")(x)
    model = keras.Model(inputs, layers.Dense(10, name="dense_2")(x))
    result, report = compress_model(model, CompressionConfig(Budget("params", 0.5), "uniform"))
    assert report.replaced == 4
    return result


@pytest.fixture
def copy(compressed):
    """A model of its own for each test that changes it."""
    twin = keras.models.clone_model(compressed)
    twin.set_weights(compressed.get_weights())
    return twin


def difference(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_saved_models_come_back_bit_for_bit_without_custom_objects(compressed, tmp_path, name):
    compressed.save(tmp_path / name)
    loaded = keras.models.load_model(tmp_path / name)
    np.testing.assert_array_equal(loaded(X), compressed(X))


def test_weights_go_into_a_model_made_anew_from_json(compressed, tmp_path):
    compressed.save_weights(tmp_path / "model.weights.h5")
    fresh = keras.models.model_from_json(compressed.to_json())
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh(X), compressed(X))


def test_lora_tunes_the_factors_alone_and_survives_saving_and_export(copy, compressed, tmp_path):
    tuned = [layer for layer in copy.layers if isinstance(layer, layers.Dense)]
    assert {layer.name for layer in tuned} > {"dense_1_stage0", "dense_1"}
    for layer in copy.layers:
        layer.trainable = layer in tuned
    for layer in tuned:
        layer.enable_lora(2)
    np.testing.assert_array_equal(copy(X), compressed(X))  # it starts at zero
    frozen = [layer._kernel.numpy() for layer in tuned]
    copy.compile(keras.optimizers.SGD(0.1), "mse")
    copy.fit(X, np.ones((16, 10)), verbose=0)
    for layer, before in zip(tuned, frozen, strict=True):
        np.testing.assert_array_equal(layer._kernel, before)
    assert difference(copy(X), compressed(X)) > 1e-3
    copy.save(tmp_path / "tuned.keras")
    loaded = keras.models.load_model(tmp_path / "tuned.keras")
    assert difference(loaded(X), copy(X)) < 1e-6  # saving adds the update to the kernel
    assert served(copy, tmp_path / "tuned") < 1e-5


def served(model, path):
    """Exports for serving and returns how far the C++ loader's outputs are off."""
    model.export(str(path), format="tf_saved_model", verbose=False)
    with CcSession(str(path)) as session:
        (outputs,) = session.run({"image": X}).values()
    return difference(outputs, model(X))


def test_dense_factors_are_quantized_and_convolutions_are_said_not_to_be(
    copy, compressed, tmp_path
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        copy.quantize("int8")
    modes = {layer.name: getattr(layer, "quantization_mode", None) for layer in copy.layers}
    assert modes["dense_1_stage0"] == modes["dense_1"] == "int8"
    assert modes["conv_1"] is None
    assert any("Conv2D does not have a `quantize`" in str(w.message) for w in caught)
    assert difference(copy(X), compressed(X)) < 0.05
    copy.save(tmp_path / "quantized.keras")
    loaded = keras.models.load_model(tmp_path / "quantized.keras")
    np.testing.assert_array_equal(loaded(X), copy(X))
    assert served(copy, tmp_path / "quantized") < 1e-5


def test_export_for_serving_runs_in_the_cpp_loader(compressed, tmp_path):
    assert served(compressed, tmp_path / "saved") < 1e-5


def test_export_to_litert_gives_the_same_outputs(compressed, tmp_path):
    from tfapprox.combining.tflite import TfliteModel

    compressed.export(str(tmp_path / "model.tflite"), format="litert", verbose=False)
    model = TfliteModel((tmp_path / "model.tflite").read_bytes())
    assert difference(model(X), compressed(X)) < 1e-5


@pytest.mark.skipif(
    importlib.util.find_spec("tf2onnx") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="ONNX is not installed: pip install 'tfapprox[onnx]'",
)
def test_export_to_onnx_gives_the_same_outputs(compressed, tmp_path):
    import onnxruntime

    compressed.export(str(tmp_path / "model.onnx"), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (outputs,) = session.run(None, {session.get_inputs()[0].name: X})
    assert difference(outputs, compressed(X)) < 1e-5


@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="OpenVINO is not installed: pip install 'tfapprox[openvino]'",
)
@pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="OpenVINO 2026.4 deletes a name that an exec of its own made, which 3.13 keeps apart",
)
def test_export_to_openvino_gives_the_same_outputs(compressed, tmp_path):
    import openvino

    compressed.export(str(tmp_path / "model.xml"), format="openvino", verbose=False)
    model = openvino.Core().compile_model(str(tmp_path / "model.xml"), "CPU")
    outputs = model(X)[model.output(0)]
    assert difference(outputs, compressed(X)) < 1e-3
