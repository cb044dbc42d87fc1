"""Files become prepared data sets, which are read back without a network."""

import gzip
import importlib.util
import socket
import struct

import numpy as np
import pytest
from absl import flags

from experiments import prepare_data
from experiments.corpus import PARTS, load_corpus
from experiments.datasets import load_images
from experiments.image_files import read_images
from experiments.prepare_data import prepare
from tfapprox.errors import UserError

needs_tfds = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_datasets") is None,
    reason="TensorFlow Datasets is not installed: pip install 'tfapprox[datasets]'",
)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self, address):
        raise AssertionError(f"asked the network for {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def write_idx(folder):
    folder.mkdir()
    for part, count in (("train", 40), ("t10k", 10)):
        arrays = RNG.integers(0, 256, (count, 6, 5)), np.arange(count) % 3
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True):
            sizes = struct.pack(f">{array.ndim}I", *array.shape)
            body = b"\x00\x00\x08" + bytes([array.ndim]) + sizes + array.astype(np.uint8).tobytes()
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(body))


def write_cifar(folder, classes):
    folder.mkdir()
    coarse = () if classes == 10 else (7,)
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)] if classes == 10 else ["train.bin"]
    for name in [*batches, "test_batch.bin" if classes == 10 else "test.bin"]:
        records = [
            bytes([*coarse, int(label)]) + RNG.integers(0, 256, 3072, np.uint8).tobytes()
            for label in RNG.integers(0, classes, 12)
        ]
        (folder / name).write_bytes(b"".join(records))


def write_pictures(folder):
    import tensorflow as tf

    for part, count in (("train", 11), ("val", 3)):
        for label, name in enumerate(("cat", "dog")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                size = (20 + i, 40 - i, 3)
                picture = np.full(size, 50 + 100 * label, np.uint8)
                (folder / part / name / f"{i}.jpg").write_bytes(tf.io.encode_jpeg(picture).numpy())


def test_cifar_records_are_labels_and_then_planes(tmp_path):
    write_cifar(tmp_path / "raw", 100)
    content = (tmp_path / "raw" / "test.bin").read_bytes()
    _, test = read_images(tmp_path / "raw")
    assert test.x.shape == (12, 32, 32, 3)
    assert test.y[0] == content[1]  # the fine label
    assert test.x[0, 0, 5, 1] == content[2 + 1024 + 5]  # green, first row, sixth pixel


@needs_tfds
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("mnist", write_idx),
        ("cifar10", lambda folder: write_cifar(folder, 10)),
        ("cifar100", lambda folder: write_cifar(folder, 100)),
    ],
)
def test_prepared_images_are_those_of_the_files(name, write, tmp_path):
    import tensorflow_datasets as tfds

    write(tmp_path / "raw")
    place = prepare(name, str(tmp_path / "raw"), str(tmp_path / "data"))
    assert place == tmp_path / "data" / name / "1.0.0"
    direct = load_images(name, str(tmp_path / "raw"))
    stored = load_images(name, str(tmp_path / "data"))
    assert direct.classes == stored.classes
    for part in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(direct, part).x, getattr(stored, part).x)
        np.testing.assert_array_equal(getattr(direct, part).y, getattr(stored, part).y)
    # Anybody's `tfds.load` reads them too; without the version it would ask for its own.
    rows = list(tfds.load(f"{name}:1.0.0", split="test", data_dir=tmp_path / "data"))
    np.testing.assert_array_equal(rows[0]["image"], direct.test.x[0])


@needs_tfds
def test_folders_of_pictures_are_resized_and_cropped_to_the_network(tmp_path):
    write_pictures(tmp_path / "raw")
    prepare("pets", str(tmp_path / "raw"), str(tmp_path / "data"))
    data = load_images("pets", str(tmp_path / "data"), (16, 16, 3))
    assert data.train.x.shape[1:] == (16, 16, 3) and len(data.train) + len(data.valid) == 22
    means = data.test.x.reshape(len(data.test), -1).mean(axis=1)
    np.testing.assert_allclose(means, 50 + 100 * data.test.y, atol=2)
    with pytest.raises(UserError, match="different sizes"):
        load_images("pets", str(tmp_path / "data"))
    prepare("few", str(tmp_path / "raw"), str(tmp_path / "data"), examples=4)
    few = load_images("few", str(tmp_path / "data"), (16, 16, 3))
    assert sorted(few.test.y) == [0, 0, 1, 1]


@needs_tfds
def test_a_prepared_corpus_gives_the_same_windows(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for part in PARTS:
        (raw / f"ptb.{part}.txt").write_text("a b c <unk> d\ne f g\n\nh i j\n" * 6)
    prepare("ptb", str(raw), str(tmp_path / "data"))
    direct = load_corpus("ptb", str(raw), 2, 5)
    stored = load_corpus("ptb", str(tmp_path / "data"), 2, 5)
    np.testing.assert_array_equal(direct.train.x, stored.train.x)
    np.testing.assert_array_equal(direct.test.y, stored.test.y)
    assert direct.classes == stored.classes


@needs_tfds
def test_what_is_not_prepared_names_the_command_that_prepares_it(tmp_path):
    for load in (load_images, lambda *args: load_corpus(*args, 2, 5)):
        with pytest.raises(UserError) as caught:
            load("cifar100", str(tmp_path))
        message = str(caught.value)
        command = f"python -m experiments.prepare_data --name=cifar100 --data_dir={tmp_path}"
        assert command in message and "\n" not in message


@needs_tfds
def test_what_is_prepared_is_not_overwritten(tmp_path):
    write_idx(tmp_path / "raw")
    prepare("mine", str(tmp_path / "raw"), str(tmp_path / "data"))
    with pytest.raises(UserError, match="prepared already"):
        prepare("mine", str(tmp_path / "raw"), str(tmp_path / "data"))


def run(*arguments):
    values = flags.FlagValues()
    prepare_data.define_flags(values)
    values(["prepare_data", *arguments])
    return prepare_data.main(["prepare_data"], values)


@needs_tfds
def test_the_program_says_how_to_use_what_it_prepared(tmp_path, capsys):
    write_idx(tmp_path / "raw")
    data = tmp_path / "data"
    assert run("--name=mine", f"--source={tmp_path / 'raw'}", f"--data_dir={data}") == 0
    assert f"--dataset=mine --data_dir={data}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=nowhere"], "--name is required"),
        (["--name=x", "--source=/nowhere"], "no directory"),
        (["--name=My-Set", "--source=."], "--name=My-Set: TensorFlow Datasets finds names"),
        (["--name=x", "--source=."], "has no data set: wanted are"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_incomplete_files_are_named(tmp_path):
    write_idx(tmp_path / "idx")
    (tmp_path / "idx" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte"):
        read_images(tmp_path / "idx")
    write_cifar(tmp_path / "cifar", 10)
    with (tmp_path / "cifar" / "data_batch_3.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"data_batch_3.bin has .* not records of 3073"):
        read_images(tmp_path / "cifar")
