import gzip
import struct

import numpy as np
import pytest

from experiments import datasets
from experiments.corpus import load_corpus
from experiments.datasets import load_images
from experiments.image_files import read_idx
from tfapprox.errors import UserError


def write_idx(path, array, packed):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    body = header + array.astype(np.uint8).tobytes()
    (path.parent / (path.name + ".gz" * packed)).write_bytes(
        gzip.compress(body) if packed else body
    )


@pytest.mark.parametrize("packed", [True, False])
def test_idx_directories_are_read_plain_or_gzipped(tmp_path, packed):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 40), ("t10k", 10)):
        arrays[part] = rng.integers(0, 255, (count, 4, 5)), rng.integers(0, 3, count)
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[part], strict=True):
            write_idx(tmp_path / f"{part}-{kind}-ubyte", array, packed)
    data = load_images("mine", str(tmp_path))
    np.testing.assert_array_equal(data.train.x[..., 0], arrays["train"][0][:36])
    np.testing.assert_array_equal(data.valid.y, arrays["train"][1][36:])
    np.testing.assert_array_equal(data.test.x[..., 0], arrays["t10k"][0])
    assert data.classes == 3


def test_files_that_are_no_idx_are_refused_by_path(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"PNG and more")
    with pytest.raises(UserError, match=str(path)):
        read_idx(path)
    path.write_bytes(b"\x00\x00\x08\x01" + struct.pack(">I", 9) + b"few")
    with pytest.raises(UserError, match="3 bytes"):
        read_idx(path)


def test_missing_data_name_the_exact_path_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(UserError) as caught:
        load_images("cifar100", str(tmp_path))
    message = str(caught.value)
    assert str(tmp_path / "train-images-idx3-ubyte.gz") in message
    assert "pip install tensorflow-datasets" in message
    assert "\n" not in message
    with pytest.raises(UserError, match=str(tmp_path / "ptb.train.txt")):
        load_corpus("ptb", str(tmp_path), 2, 5)


def test_batches_of_more_than_all_examples_are_refused():
    data = load_images("synthetic", shape=(8, 8, 1))
    data.require_batch(1800)
    with pytest.raises(UserError, match="--batch_size=1801 is more than the 1800 training"):
        data.require_batch(1801)


def test_images_grow_to_the_networks_input():
    data = load_images("digits", shape=(20, 20, 3))
    assert data.train.x.shape[1:] == (20, 20, 3)
    # 8 x 2 = 16, with 2 pixels of margin.
    assert not data.train.x[:, :2].any()
    np.testing.assert_array_equal(data.train.x[:, 2:18:2, 2:18:2], data.train.x[:, 3:18:2, 3:18:2])
    with pytest.raises(UserError, match="larger"):
        datasets._reshape(data.train.x, (10, 10, 3))


def test_windows_continue_the_streams_from_batch_to_batch(tmp_path):
    words = [f"w{i:02d}" for i in range(41)]
    for part in ("train", "valid", "test"):
        (tmp_path / f"ptb.{part}.txt").write_text(" ".join(words))
    data = load_corpus("ptb", str(tmp_path), batch_size=2, steps=5)
    # All words come once, so they are numbered alphabetically.
    assert data.train.x.shape == (8, 5)
    np.testing.assert_array_equal(data.train.x[0], np.arange(5))
    np.testing.assert_array_equal(data.train.x[1], np.arange(20, 25))
    np.testing.assert_array_equal(data.train.x[2], np.arange(5, 10))
    np.testing.assert_array_equal(data.train.y, data.train.x + 1)
    assert not data.shuffle


def test_words_are_numbered_by_frequency_and_line_ends_are_words(tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"ptb.{part}.txt").write_text("b a b\nb c a\n" * 4)
    data = load_corpus("ptb", str(tmp_path), 1, 7)
    # b 12 times, <eos> and a 8 times, c 4 times; "<" sorts before "a".
    np.testing.assert_array_equal(data.train.x[0], [0, 2, 0, 1, 0, 3, 2])
