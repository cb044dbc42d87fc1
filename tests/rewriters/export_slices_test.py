import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.rewriters.export_slices import export_slices
from tfapprox.rewriters.generate_slices import generate_slices
from tfapprox.serving.cc_loader import CcSession

IMAGES = np.random.default_rng(0).normal(size=(2, 6, 6, 16)).astype(np.float32)


def generated(binary):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 6, 16))])
    for _ in range(4):
        model.add(keras.layers.Conv2D(16, 3, padding="same"))
        model.add(keras.layers.BatchNormalization())
        model.add(keras.layers.Dropout(0.5))
    return generate_slices(model, (16, 16, 3, 3), 8, "", binary=binary).model


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kernels", ["dense", "folded"])
def test_both_loaders_compute_what_the_model_computes(tmp_path, kernels, binary):
    model = generated(binary)
    export_slices(model, tmp_path / "model", kernels)
    expected = model(IMAGES)
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    np.testing.assert_allclose(serve(inputs=IMAGES)["outputs"], expected, atol=1e-5)
    with CcSession(str(tmp_path / "model")) as session:
        found = session.run({"inputs": IMAGES})["outputs"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_codes_and_generator_take_the_room_they_should(tmp_path):
    def variable_bytes(name, binary, kernels):
        export_slices(generated(binary), tmp_path / name, kernels)
        return sum(f.stat().st_size for f in (tmp_path / name / "variables").glob("*.data*"))

    others = 4 * 4 * (16 + 4 * 16)  # biases and statistics of four layers
    dense = variable_bytes("dense", False, "dense")
    folded = variable_bytes("folded", False, "folded")
    signs = variable_bytes("signs", True, "folded")
    # The checkpoint's bookkeeping adds a few kilobytes to each.
    assert 0 <= dense - (others + 4 * 4 * 2304) < 4000
    assert 0 <= folded - (others + 4 * 4 * 8 + 4 * 8 * 2304) < 6000
    assert 0 <= signs - (others + 4 * 4 * 8 + 8 * 2304) < 6000


def test_two_exports_in_one_process_keep_their_own_kernels(tmp_path):
    model = generated(False)
    export_slices(model, tmp_path / "first")
    first = tf.saved_model.load(str(tmp_path / "first")).signatures["serving_default"]
    before = first(inputs=IMAGES)["outputs"].numpy()
    for layer in model.layers:
        if hasattr(layer, "codes"):
            layer.codes.assign(3 * np.asarray(layer.codes))
    export_slices(model, tmp_path / "second")
    second = tf.saved_model.load(str(tmp_path / "second")).signatures["serving_default"]
    np.testing.assert_array_equal(first(inputs=IMAGES)["outputs"], before)
    assert not np.allclose(second(inputs=IMAGES)["outputs"], before)


def test_a_failed_export_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="dense or folded"):
        export_slices(generated(False), tmp_path / "model", "sparse")
    plain = keras.Sequential([keras.Input((6, 6, 16)), keras.layers.Conv2D(16, 3)])
    with pytest.raises(UserError, match="no slice-generated convolution"):
        export_slices(plain, tmp_path / "model")
    assert not (tmp_path / "model").exists()
