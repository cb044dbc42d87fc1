"""Image data: digits and synthetic ones out of the box, IDX files, TensorFlow Datasets."""

import dataclasses
import gzip
import pathlib
import struct

import numpy as np

from tfapprox.errors import UserError

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples x [n, ...] and labels y, [n] or [n, T]."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Three splits.

    Attributes:
      train, valid, test: images are uint8 [n, height, width, channels].
      classes: number of labels.
      shuffle: whether training may see the examples in any order.
    """

    train: Split
    valid: Split
    test: Split
    classes: int
    shuffle: bool = True


def load_images(
    name: str, data_dir: str = "", shape: tuple[int, int, int] | None = None, seed: int = 0
) -> Data:
    """Returns a data set; the last tenth of the training images, at most 5,000, validates.

    Args:
      name: "digits" (1,797 scanned 8x8 digits), "synthetic" (noisy prototypes of 10
        classes); else a name for messages, with IDX files in `data_dir`, or a name
        that TensorFlow Datasets knows.
      data_dir: of IDX files (plain or .gz), or where TensorFlow Datasets keeps its own.
      shape: height, width, channels to bring the images to: smaller ones are
        repeated and padded, grey ones tripled.
      seed: of the digits' split and of synthetic images.

    Raises:
      UserError: the data are not there; says where they are expected and what to do.
    """
    if name == "digits":
        train, test = _digits(seed)
    elif name == "synthetic":
        train, test = _synthetic(shape or (28, 28, 1), seed)
    elif _has_idx(data_dir):
        train, test = (_read_idx(pathlib.Path(data_dir), part) for part in ("train", "test"))
    else:
        train, test = _tensorflow_datasets(name, data_dir)
    if shape is not None:
        train, test = (Split(_reshape(part.x, shape), part.y) for part in (train, test))
    held = min(5000, len(train) // 10)
    return Data(
        Split(train.x[:-held], train.y[:-held]),
        Split(train.x[-held:], train.y[-held:]),
        test,
        int(train.y.max()) + 1,
    )


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Returns the array in an IDX file of unsigned bytes, plain or gzipped.

    Raises:
      UserError: not such a file.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        content = file.read()
    if content[:3] != b"\x00\x00\x08":
        raise UserError(f"{path} is no IDX file of unsigned bytes")
    rank = content[3]
    sizes = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(sizes):
        raise UserError(f"{path} holds {values.size} bytes, its header says {sizes}")
    return values.reshape(sizes)


def _has_idx(data_dir: str) -> bool:
    return bool(data_dir) and _idx_path(pathlib.Path(data_dir), _IDX_FILES["train"][0]).exists()


def _idx_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    packed = folder / f"{name}.gz"
    return packed if packed.exists() else folder / name


def _read_idx(folder: pathlib.Path, part: str) -> Split:
    paths = [_idx_path(folder, name) for name in _IDX_FILES[part]]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}(.gz) is missing: put all four IDX files into {folder}")
    return Split(read_idx(paths[0])[..., np.newaxis], read_idx(paths[1]).astype(np.int32))


def _digits(seed: int) -> tuple[Split, Split]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "--dataset=digits needs scikit-learn: pip install scikit-learn, or take synthetic"
        ) from error
    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    images = np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = bunch.target[order].astype(np.int32)
    held = len(labels) // 4
    return Split(images[held:], labels[held:]), Split(images[:held], labels[:held])


def _synthetic(shape: tuple[int, int, int], seed: int) -> tuple[Split, Split]:
    rng = np.random.default_rng(seed)
    prototypes = rng.uniform(0, 255, (10, *shape))

    def draw(count: int) -> Split:
        labels = rng.integers(0, 10, count)
        images = prototypes[labels] + rng.normal(0, 80, (count, *shape))
        return Split(np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.int32))

    return draw(2000), draw(500)


def _tensorflow_datasets(name: str, data_dir: str) -> tuple[Split, Split]:
    try:
        import tensorflow_datasets as tfds  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        where = pathlib.Path(data_dir or "DIR") / f"{_IDX_FILES['train'][0]}.gz"
        raise UserError(
            f"--dataset={name}: no IDX files (looked for {where}) and no TensorFlow Datasets; pass "
            "--data_dir, pip install tensorflow-datasets, or take --dataset=digits or synthetic"
        ) from error
    try:
        parts = tfds.load(
            name,
            split=["train", "test"],
            data_dir=data_dir or None,
            batch_size=-1,
            as_supervised=True,
        )
    except Exception as error:  # whatever a download may raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"TensorFlow Datasets can't load {name!r}: {reason}") from error
    train, test = (Split(np.asarray(x), np.asarray(y, np.int32)) for x, y in parts)
    return train, test


def _reshape(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    factor = min(height // images.shape[1], width // images.shape[2])
    if factor < 1:
        raise UserError(f"images are {images.shape[1:3]}, larger than the network's {shape[:2]}")
    images = images.repeat(factor, 1).repeat(factor, 2)
    rest = (height - images.shape[1], width - images.shape[2])
    pads = [(0, 0), *((r // 2, r - r // 2) for r in rest), (0, 0)]
    images = np.pad(images, pads)
    return images if images.shape[3] == channels else images.repeat(channels, 3)
