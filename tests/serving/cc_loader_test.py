"""Tests of the session that TensorFlow's C++ loader makes."""

import shutil

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.serving import c_api
from tfapprox.serving.cc_loader import CcSession, LoadError
from tfapprox.serving.signature import DTYPE_NAMES, read_signatures

ECHOED = sorted(name for name in DTYPE_NAMES.values() if not name.startswith("float8"))


class Model(tf.Module):
    """One signature that scales, one that returns each of its inputs as it came."""

    def __init__(self):
        super().__init__()
        self.scale = tf.Variable([1.0, 2.0, 3.0], name="scale")

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")])
    def serve(self, x):
        tf.debugging.assert_less(x, 100.0, message="too large")
        return {"y": x * self.scale, "a_first": tf.shape(x)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("cc") / "model")
    module = Model()
    module.echo = tf.function(
        lambda **inputs: {f"{key}_out": tf.identity(value) for key, value in inputs.items()},
        input_signature=None,
    )
    specs = {name: tf.TensorSpec([None], name, name=name) for name in ECHOED}
    signatures = {
        "serving_default": module.serve,
        "echo": module.echo.get_concrete_function(**specs),
    }
    tf.saved_model.save(module, path, signatures)
    return path


@pytest.fixture(scope="module")
def session(model):
    with CcSession(model, threads=1) as session:
        yield session


def test_outputs_equal_those_of_python(model, session):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    got = session.run({"x": x})
    want = tf.saved_model.load(model).signatures["serving_default"](x=tf.constant(x))
    assert set(got) == set(want) == {"y", "a_first"}
    for key, value in want.items():
        assert got[key].dtype == value.numpy().dtype
        np.testing.assert_array_equal(got[key], value.numpy())


@pytest.mark.parametrize("count", [0, 3])
def test_every_dtype_passes_unharmed(session, count):
    rng = np.random.default_rng(0)
    inputs = {}
    for name in ECHOED:
        values = rng.integers(0, 2, count)
        dtype = ml_dtypes.bfloat16 if name == "bfloat16" else name
        inputs[name] = (
            np.array(["", "a" * 100, "é"][:count], dtype=object)
            if name == "string"
            else values.astype(dtype)
        )
    got = session.run(inputs, "echo")
    for name, array in inputs.items():
        want = array
        if name == "string":
            want = np.array([text.encode() for text in array], dtype=object)
        assert got[f"{name}_out"].dtype == want.dtype
        np.testing.assert_array_equal(got[f"{name}_out"], want)


def test_signatures_read_from_the_file_are_those_of_the_session(model, session):
    signatures = read_signatures(model)
    assert signatures == session.signatures
    assert set(signatures) == {"serving_default", "echo"}
    spec = signatures["serving_default"].inputs["x"]
    assert (spec.dtype, spec.shape, str(spec)) == ("float32", (None, 3), "float32 [?, 3]")


@pytest.mark.parametrize(
    ("inputs", "signature", "message"),
    [
        ({}, "serving_default", "'x' is missing"),
        ({"x": np.ones((1, 3), "f"), "z": np.ones(1)}, "serving_default", "no input 'z'"),
        ({"x": np.ones((1, 3))}, "serving_default", r"must be float32 \[\?, 3\], got float64"),
        ({"x": np.ones((1, 4), "f")}, "serving_default", r"got shape \[1, 4\]"),
        ({"x": np.array([["a"] * 3])}, "serving_default", "got <U1"),
        ({}, "other", "no signature 'other'; it has echo, serving_default"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(session, inputs, signature, message):
    with pytest.raises(UserError, match=message):
        session.run(inputs, signature)


def test_a_failure_at_run_time_is_told_in_one_line(session):
    with pytest.raises(LoadError, match=r"fails to run serving_default: .*too large") as caught:
        session.run({"x": np.full((1, 3), 1000, "f")})
    assert "\n" not in str(caught.value)


def test_what_is_no_saved_model_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="no graph tagged gpu; its tags are: serve"):
        CcSession(model, tags=["gpu"])
    with pytest.raises(UserError, match="not a SavedModel directory"):
        CcSession(tmp_path / "nothing")
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 40)
    with pytest.raises(UserError, match="damaged or no SavedModel"):
        CcSession(tmp_path)
    with pytest.raises(UserError, match="threads must be 1 to 127, got 0"):
        CcSession(model, threads=0)


def test_lost_variables_are_a_load_error(model, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    (damaged / "variables" / "variables.index").write_bytes(b"short")
    with pytest.raises(LoadError, match=r"damaged can't be loaded by TensorFlow's C\+\+ loader"):
        CcSession(damaged)


def test_a_keras_3_model_saved_as_a_plain_object_is_found_out(tmp_path):
    keras_model = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(2)])
    tf.saved_model.save(keras_model, str(tmp_path / "plain"))
    with CcSession(tmp_path / "plain") as session:
        (key,) = session.signatures["serving_default"].inputs
        with pytest.raises(LoadError, match=r"Could not find variable"):
            session.run({key: np.ones((1, 3), "f")})


def test_a_closed_session_is_told_and_closing_twice_is_harmless(model):
    session = CcSession(model)
    session.close()
    session.close()
    with pytest.raises(LoadError, match="closed"):
        session.run({"x": np.ones((1, 3), "f")})


def test_messages_are_cut_to_what_a_user_can_read():
    text = "no such  thing\n\t [[{{node x}}]]\nmore"
    assert c_api.shorten(text) == "no such thing"
    assert len(c_api.shorten("x" * 1000)) == 300
