"""Image data sets as their authors hand them out: IDX, CIFAR's binaries, folders of pictures."""

import dataclasses
import gzip
import pathlib
import struct
from collections.abc import Iterator

import numpy as np

from tfapprox.errors import UserError

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Last bytes of the label come first; CIFAR-100 has the coarse one before the fine one.
_CIFAR_FILES = {
    10: ([f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]),
    100: (["train.bin"], ["test.bin"]),
}
_CIFAR_SHAPE = (3, 32, 32)
_PICTURES = {".jpeg", ".jpg", ".png", ".bmp", ".gif"}
# Folders of labelled pictures that no network was trained on; ImageNet's own test has no labels.
_HELD_OUT = ("val", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples x [n, ...] and labels y, [n] or [n, T]."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


def read_images(folder: pathlib.Path) -> tuple[Split, Split] | None:
    """Returns uint8 training and test images [n, h, w, c] of IDX or CIFAR files, or None.

    Args:
      folder: with the files' original names, IDX ones plain or .gz.

    Raises:
      UserError: some of the files are there and others are not, or one is malformed.
    """
    if _path(folder, _IDX_FILES["train"][0]).exists():
        train, test = (_read_idx_split(folder, names) for names in _IDX_FILES.values())
        return train, test
    for classes, parts in _CIFAR_FILES.items():
        if (folder / parts[0][0]).exists():
            return _read_cifar(folder, parts[0], classes), _read_cifar(folder, parts[1], classes)
    return None


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


def _path(folder: pathlib.Path, name: str) -> pathlib.Path:
    packed = folder / f"{name}.gz"
    return packed if packed.exists() else folder / name


def _read_idx_split(folder: pathlib.Path, names: tuple[str, str]) -> Split:
    paths = [_path(folder, name) for name in names]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}(.gz) is missing: put all four IDX files into {folder}")
    return Split(read_idx(paths[0])[..., np.newaxis], read_idx(paths[1]).astype(np.int32))


def _read_cifar(folder: pathlib.Path, names: list[str], classes: int) -> Split:
    """Returns images of files whose records are label bytes, then red, green and blue planes."""
    labels = 1 if classes == 10 else 2
    size = labels + int(np.prod(_CIFAR_SHAPE))
    parts = []
    for name in names:
        path = folder / name
        if not path.exists():
            raise UserError(f"{path} is missing: put {', '.join(names)} into {folder}")
        content = np.frombuffer(path.read_bytes(), np.uint8)
        if not content.size or content.size % size:
            raise UserError(f"{path} has {content.size} bytes, not records of {size} each")
        parts.append(content.reshape(-1, size))
    records = np.concatenate(parts)
    images = records[:, labels:].reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), records[:, labels - 1].astype(np.int32))


@dataclasses.dataclass(frozen=True)
class PictureFolders:
    """Pictures sorted into a folder for each class, as ImageNet is.

    Attributes:
      classes: names of the classes, sorted; a label is a place in them.
      train, test: (path, label) of each picture.
    """

    classes: tuple[str, ...]
    train: tuple[tuple[pathlib.Path, int], ...]
    test: tuple[tuple[pathlib.Path, int], ...]


def find_pictures(folder: pathlib.Path) -> PictureFolders | None:
    """Returns what is in folder/train/CLASS/ and folder/val/CLASS/ (or validation, test), or None.

    Raises:
      UserError: there is nothing to test on, or on classes never trained on.
    """
    if not (folder / "train").is_dir():
        return None
    classes = tuple(sorted(p.name for p in (folder / "train").iterdir() if p.is_dir()))
    if not classes:
        return None
    held = next((folder / name for name in _HELD_OUT if (folder / name).is_dir()), None)
    if held is None:
        raise UserError(f"{folder} has train/ but none of {', '.join(_HELD_OUT)} to test on")
    strangers = sorted({p.name for p in held.iterdir() if p.is_dir()} - set(classes))
    if strangers:
        raise UserError(f"{held} has classes that train/ has not: {', '.join(strangers[:5])}")
    train, test = (tuple(_pictures(part, classes)) for part in (folder / "train", held))
    if not train or not test:
        raise UserError(
            f"{folder} has no pictures ({', '.join(sorted(_PICTURES))}) in train or test"
        )
    return PictureFolders(classes, train, test)


def _pictures(part: pathlib.Path, classes: tuple[str, ...]) -> Iterator[tuple[pathlib.Path, int]]:
    for label, name in enumerate(classes):
        for path in sorted((part / name).rglob("*")):
            if path.suffix.lower() in _PICTURES:
                yield path, label
