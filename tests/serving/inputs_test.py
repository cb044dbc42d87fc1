"""Tests of inputs read from a file and made up."""

import ml_dtypes
import numpy as np
import pytest

from tfapprox.errors import UserError
from tfapprox.serving.inputs import assumed_sizes, generate_inputs, read_inputs, take_batch
from tfapprox.serving.signature import Signature, TensorSpec


def signature(**inputs) -> Signature:
    return Signature(
        {key: TensorSpec(f"{key}:0", dtype, shape) for key, (dtype, shape) in inputs.items()}, {}
    )


X = signature(x=("float32", (None, 3)))


def write(path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_a_file_gives_the_arrays_it_holds(tmp_path):
    sig = signature(x=("float32", (None, 3)), words=("string", (None,)))
    x, words = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(["a", "bé"])
    got = read_inputs(write(tmp_path / "in.npz", x=x, words=words), sig)
    np.testing.assert_array_equal(got["x"], x)
    np.testing.assert_array_equal(got["words"], words)


def test_bfloat16_may_be_stored_as_float32(tmp_path):
    sig = signature(x=("bfloat16", (None,)))
    got = read_inputs(write(tmp_path / "in.npz", x=np.float32([1.5])), sig)
    assert got["x"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"arrays \[\]; the signature's inputs are \['x'\]"),
        ({"x": np.ones((1, 3), "f"), "y": np.ones(1)}, r"\['x', 'y'\]"),
        ({"x": np.ones(3, "f")}, r"'x' has shape \[3\]; the signature has float32 \[\?, 3\]"),
        ({"x": np.ones((2, 4), "f")}, r"shape \[2, 4\]"),
        ({"x": np.ones((2, 3))}, "'x' is float64"),
        ({"x": np.array([["a"] * 3])}, "'x' is <U1"),
        ({"x": np.array([[None] * 3])}, "no .npz file of plain arrays"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as caught:
        read_inputs(write(tmp_path / "in.npz", **arrays), X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_an_unreadable_file_is_refused(tmp_path, content):
    path = tmp_path / "in.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"in\.npz"):
        read_inputs(str(path), X)


def test_a_missing_file_and_a_lone_array_are_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_inputs(str(tmp_path / "in.npz"), X)
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(UserError, match="one array"):
        read_inputs(str(tmp_path / "x.npy"), X)


def test_generated_inputs_fit_the_signature_and_repeat():
    shapes = {"scalar": (), "known": (2, 3), "open": (None, None, 5), "rankless": None}
    dtypes = ["float32", "float16", "bfloat16", "int64", "uint8", "bool", "string", "complex64"]
    sig = signature(**{f"{s}_{d}": (d, shape) for s, shape in shapes.items() for d in dtypes})
    first, second = generate_inputs(sig, 4, seed=7), generate_inputs(sig, 4, seed=7)
    for key, spec in sig.inputs.items():
        assert spec.admits(first[key].shape)
        assert spec.dtype == "string" or first[key].dtype == spec.numpy_dtype()
        np.testing.assert_array_equal(first[key], second[key])
    assert first["open_float32"].shape == (4, 32, 5)
    assert not np.array_equal(first["open_float32"], generate_inputs(sig, 4, 8)["open_float32"])


def test_generated_numbers_are_plausible():
    sig = signature(image=("float32", (None, 8, 8, 3)), index=("int32", (None, 50)))
    made = generate_inputs(sig, 8)
    assert 0 <= made["image"].min() and made["image"].max() < 1
    assert set(np.unique(made["index"])) == set(range(10))


def test_assumed_sizes_are_stated():
    sig = signature(x=("float32", (None, None, 3)), y=("float32", (None, 3)))
    assert assumed_sizes(sig, 20) == "inputs x have open sizes: 20 was assumed for each"
    assert generate_inputs(sig, 2, unknown_size=20)["x"].shape == (2, 20, 3)
    assert assumed_sizes(X) == ""


def test_what_can_not_be_made_up_is_refused():
    with pytest.raises(UserError, match="'x'"):
        generate_inputs(Signature({"x": TensorSpec("", "float32", (3,))}, {}), 1)


def test_a_batch_starts_over_and_leaves_fixed_inputs_alone():
    sig = signature(x=("int32", (None,)), fixed=("int32", (2,)), scalar=("bool", ()))
    inputs = {"x": np.arange(3), "fixed": np.arange(2), "scalar": np.array(True)}
    batch = take_batch(inputs, sig, 5)
    np.testing.assert_array_equal(batch["x"], [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(batch["fixed"], [0, 1])
    assert batch["scalar"].shape == ()
    np.testing.assert_array_equal(take_batch(inputs, sig, 2)["x"], [0, 1])
    with pytest.raises(UserError, match="no example"):
        take_batch({"x": np.arange(0)}, sig, 1)
