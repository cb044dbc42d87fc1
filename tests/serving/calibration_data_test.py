"""Calibration data come alike from every source, batch by batch, as often as wanted."""

import itertools
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.serving.calibration_data import open_calibration_data
from tfapprox.serving.signature import Signature, TensorSpec


def signature(**inputs) -> Signature:
    return Signature(
        {key: TensorSpec(f"{key}:0", dtype, shape) for key, (dtype, shape) in inputs.items()}, {}
    )


TWO = signature(x=("float32", (None, 3)), n=("int32", (None,)))
ONE = signature(x=("float32", (None, 3)))
X = np.arange(21, dtype=np.float32).reshape(7, 3)
N = np.arange(7, dtype=np.int32)


def feature(values):
    if isinstance(values, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[values]))
    values = np.asarray(values).reshape(-1)
    if values.dtype.kind in "SUO":
        return tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[str(v).encode() for v in values])
        )
    if values.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write_records(path, examples, options=None) -> str:
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for example in examples:
            features = tf.train.Features(feature={k: feature(v) for k, v in example.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())
    return str(path)


def batches_for_the_test():
    return ({"x": X[i : i + 3], "n": N[i : i + 3]} for i in range(0, 7, 3))


def sources(folder):
    np.savez(folder / "a.npz", x=X, n=N, labels=N)
    np.savez_compressed(folder / "b.npz", x=np.asfortranarray(X), n=N)
    examples = [{"x": x, "n": n, "label": n} for x, n in zip(X, N, strict=True)]
    yield str(folder / "a.npz")
    yield folder / "b.npz"
    yield write_records(folder / "a.tfrecord", examples)
    yield write_records(folder / "a.tfrecord.gz", examples, "GZIP")
    yield {"x": X, "n": N}
    yield batches_for_the_test
    yield list(batches_for_the_test())
    yield tf.data.Dataset.from_tensor_slices({"x": X, "n": N}).batch(3)


def test_every_source_gives_the_same_batches_twice(tmp_path):
    for source in sources(tmp_path):
        data = open_calibration_data(source, TWO, batch_size=3)
        for _ in range(2):
            batches = list(data)
            assert [len(batch["x"]) for batch in batches] == [3, 3, 1]
            np.testing.assert_array_equal(np.concatenate([b["x"] for b in batches]), X)
            np.testing.assert_array_equal(np.concatenate([b["n"] for b in batches]), N)
            assert batches[0]["n"].dtype == np.int32
        np.testing.assert_array_equal(data.head(4)["x"], X[:4])
        np.testing.assert_array_equal(data.head(99)["n"], N)


def test_a_function_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "my_calibration.py").write_text(
        "import numpy as np\ndef batches():\n    return [np.ones((2, 3), np.float32)]\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    (batch,) = open_calibration_data("my_calibration:batches", ONE)
    np.testing.assert_array_equal(batch["x"], np.ones((2, 3)))
    (tmp_path / "my_mistake.py").write_text("def batches(:\n")
    for name, message in [
        ("my_mistake:batches", "no function to import either .SyntaxError"),
        ("my_calibration:none", "no function to import"),
        ("no_such_module_here:f", "no function to import"),
        ("my_calibration:number", "not a function"),
    ]:
        with pytest.raises(UserError, match=message):
            open_calibration_data(name, ONE)


def test_rows_of_a_large_file_are_never_all_in_memory(tmp_path):
    sig = signature(x=("float32", (None, 1000)))
    np.savez(tmp_path / "large.npz", x=np.zeros((4000, 1000), np.float32))  # 16 MB
    data = open_calibration_data(str(tmp_path / "large.npz"), sig, batch_size=10)
    tracemalloc.start()
    for batch in itertools.islice(data, 100):
        assert batch["x"].shape == (10, 1000)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_inputs_without_a_batch_axis_stay_whole(tmp_path):
    sig = signature(x=("float32", (None, 3)), table=("float32", (5,)), flag=("bool", ()))
    arrays = {"x": X, "table": np.ones(5, np.float32), "flag": np.array(True)}
    np.savez(tmp_path / "a.npz", **arrays)
    for source in (str(tmp_path / "a.npz"), arrays):
        data = open_calibration_data(source, sig, batch_size=4)
        assert [b["x"].shape[0] for b in data] == [4, 3]
        assert all(b["table"].shape == (5,) and b["flag"].shape == () for b in data)
        assert data.head(2)["table"].shape == (5,)


def test_records_fill_a_fixed_batch_and_say_open_sizes(tmp_path):
    path = write_records(tmp_path / "a.tfrecord", [{"x": x} for x in X])
    batches = list(open_calibration_data(path, signature(x=("float32", (2, 3)))))
    assert [b["x"].shape for b in batches] == [(2, 3)] * 3
    sizes = [(2, 3), (2, 3), (4, 1)]
    images = [{"x": np.ones(s, np.float32), "x/shape": np.array(s)} for s in sizes]
    path = write_records(tmp_path / "b.tfrecord", images)
    batches = list(open_calibration_data(path, signature(x=("float32", (None, None, None)))))
    assert [b["x"].shape for b in batches] == [(2, 2, 3), (1, 4, 1)]


@pytest.mark.parametrize(
    ("spec", "value", "wanted"),
    [
        (("uint8", (None, 2)), bytes([1, 200]), np.uint8([[1, 200]])),
        (("float64", (None, 1)), np.float64([0.5]).tobytes(), np.float64([[0.5]])),
        (("bfloat16", (None, 2)), np.float32([0.5, 2]), np.float32([[0.5, 2]])),
        (("bool", (None, 2)), [1, 0], np.array([[True, False]])),
        (("string", (None,)), ["word"], np.array([b"word"], object)),
        (("float32", None), np.float32([1, 2]), np.float32([[1, 2]])),
    ],
)
def test_records_hold_every_dtype(tmp_path, spec, value, wanted):
    path = write_records(tmp_path / "a.tfrecord", [{"x": value}])
    (batch,) = open_calibration_data(path, signature(x=spec))
    np.testing.assert_array_equal(batch["x"].astype(wanted.dtype), wanted)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"y": [1.0]}, r"record 0 has features \['y'\]; the signature's inputs are \['x'\]"),
        ({"x": [1.0]}, "'x' has 1 values, which do not make up one example"),
        ({"x": [1, 2, 3]}, "holds a int64_list that is no float32"),
        ({"x": ["a", "b", "c"]}, "holds a bytes_list"),
        ({"x": [1.0, 2, 3], "x/shape": [3, 1]}, r"of shape \[3, 1\]"),
    ],
)
def test_a_record_that_does_not_fit_is_told_in_one_line(tmp_path, example, message):
    path = write_records(tmp_path / "a.tfrecord", [example])
    with pytest.raises(UserError, match=message) as caught:
        list(open_calibration_data(path, ONE))
    assert "\n" not in str(caught.value)


def test_what_can_not_be_read_is_told_in_one_line(tmp_path):
    (tmp_path / "bad.tfrecord").write_bytes(b"no record" * 5)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 cut")
    np.savez(tmp_path / "short.npz", x=X, n=N[:4])
    np.savez(tmp_path / "other.npz", x=X)
    np.savez(tmp_path / "wide.npz", x=np.ones((2, 4), "f"), n=N[:2])
    np.savez(tmp_path / "empty.npz", x=X[:0], n=N[:0])
    for name, message in [
        ("bad.tfrecord", "damaged or no TFRecord"),
        ("none.tfrecord", "No such file"),
        ("bad.npz", "can't be read"),
        ("none.npz", "No such file"),
        ("short.npz", "differ in their number of examples"),
        ("other.npz", r"arrays \['x'\]; the signature's inputs are \['n', 'x'\]"),
        ("wide.npz", r"shape \[2, 4\]"),
        ("empty.npz", "no example"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            list(open_calibration_data(str(tmp_path / name), TWO))
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_function_that_fails_is_told_in_one_line_with_its_cause():
    def batches():
        yield X
        raise RuntimeError("the disk\nis gone")

    with pytest.raises(UserError, match="failed with RuntimeError: the disk is gone") as told:
        list(open_calibration_data(batches, ONE))
    assert isinstance(told.value.__cause__, RuntimeError)


def test_python_sources_that_do_not_fit_are_refused():
    for source, message in [
        ((batch for batch in [X]), "a function that returns it"),
        (lambda: 3, "returned a int"),
        ([(X, N)], "gave a tuple"),
        ([X.astype(np.float64)], "'x' is float64"),
        ([], "no example"),
        (5, "which a int"),
    ]:
        with pytest.raises(UserError, match=message):
            list(open_calibration_data(source, ONE))
    with pytest.raises(UserError, match="gave a ndarray"):
        list(open_calibration_data([X], TWO))
