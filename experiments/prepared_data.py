"""Data that TensorFlow Datasets keeps on disk: written from files, read without a network."""

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from experiments.image_files import PictureFolders, Split
from tfapprox.errors import UserError

_VERSION = "1.0.0"
_TESTS = ("test", "validation")  # the first that has labels
_LARGEST = 8 * 2**30  # bytes of one split in memory


def load_prepared(
    name: str, data_dir: str, shape: tuple[int, int, int] | None
) -> tuple[Split, Split]:
    """Returns training and test images of a prepared data set; never downloads.

    Args:
      name: as TensorFlow Datasets has it, e.g. "cifar100" or "mine:1.0.0".
      data_dir: where it was prepared; "" is TensorFlow Datasets' own place.
      shape: height, width, channels; images of different sizes are cropped to it.

    Raises:
      UserError: not installed, not prepared, or no images with labels.
    """
    builder = _builder(name, data_dir)
    # What was stored from files names no pair; its features have the usual names.
    keys = builder.info.supervised_keys or ("image", "label")
    if not set(keys) <= set(builder.info.features) or "train" not in builder.info.splits:
        raise UserError(f"{name!r} has no labelled split 'train': it can't be trained on")
    held = next((part for part in _TESTS if part in builder.info.splits), None)
    if held is None:
        raise UserError(f"{name!r} has no split {' or '.join(_TESTS)} to test on")
    train, test = (_read(builder, part, keys, shape) for part in ("train", held))
    return train, test


def _read(
    builder: Any, part: str, keys: tuple[str, str], shape: tuple[int, int, int] | None
) -> Split:
    import tensorflow as tf

    from experiments.images import crop_to

    count = builder.info.splits[part].num_examples
    stored = builder.info.features[keys[0]].shape
    dataset = builder.as_dataset(split=part, shuffle_files=False)
    dataset = dataset.map(lambda example: (example[keys[0]], example[keys[1]]))
    if None in stored:
        if shape is None:
            raise UserError(f"{builder.info.name!r} has images of different sizes: give a shape")
        dataset = dataset.map(
            lambda x, y: (crop_to(x, shape), y), num_parallel_calls=tf.data.AUTOTUNE
        )
    height, width, channels = shape if None in stored and shape else stored
    if count * height * width * channels > _LARGEST:
        raise UserError(
            f"{count} images of {height}x{width} take more than {_LARGEST / 2**30:g} GiB of "
            "memory: prepare fewer with prepare_data --examples"
        )
    x = np.empty((count, height, width, channels), np.uint8)
    y = np.empty(count, np.int32)
    for i, (image, label) in enumerate(dataset.as_numpy_iterator()):
        x[i], y[i] = image, label
    return Split(x, y)


def load_text(name: str, data_dir: str, parts: Iterable[str]) -> dict[str, str]:
    """Returns the text of each part of a prepared corpus, lines joined; never downloads.

    Raises:
      UserError: not installed, not prepared, or without a part.
    """
    builder = _builder(name, data_dir)
    texts = {}
    for part in parts:
        if part not in builder.info.splits:
            raise UserError(f"{name!r} has no split {part!r}")
        dataset = builder.as_dataset(split=part, shuffle_files=False)
        lines = (example["text"].decode() for example in dataset.as_numpy_iterator())
        texts[part] = "".join(f"{line}\n" for line in lines)
    return texts


def store_images(name: str, data_dir: str, splits: Mapping[str, Split]) -> pathlib.Path:
    """Prepares images [n, h, w, c] and labels; returns where.

    Raises:
      UserError: TensorFlow Datasets is not installed, or it is prepared already.
    """
    tfds = _library()
    classes = max(int(split.y.max()) for split in splits.values()) + 1
    shape = splits["train"].x.shape[1:]
    features = {
        "image": tfds.features.Image(shape=shape, encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=classes),
    }

    def examples(split: Split) -> Iterator[dict[str, Any]]:
        for image, label in zip(split.x, split.y, strict=True):
            yield {"image": image, "label": int(label)}

    return _store(name, data_dir, features, {k: examples(s) for k, s in splits.items()})


def store_pictures(
    name: str, data_dir: str, pictures: PictureFolders, most: int = 0
) -> pathlib.Path:
    """Prepares pictures as they are, encoded, of different sizes; returns where.

    Args:
      most: examples of each split at most, spread over the classes; 0 is all.

    Raises:
      UserError: as `store_images`.
    """
    tfds = _library()
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=list(pictures.classes)),
    }

    def examples(part: tuple[tuple[pathlib.Path, int], ...]) -> Iterator[dict[str, Any]]:
        step = max(1.0, len(part) / most) if most else 1.0
        for i in range(min(len(part), most or len(part))):
            path, label = part[int(i * step)]
            yield {"image": str(path), "label": label}

    parts = {"train": examples(pictures.train), "test": examples(pictures.test)}
    return _store(name, data_dir, features, parts)


def store_text(name: str, data_dir: str, texts: Mapping[str, str]) -> pathlib.Path:
    """Prepares texts by lines; returns where.

    Raises:
      UserError: as `store_images`.
    """
    features = {"text": _library().features.Text()}

    def examples(text: str) -> Iterator[dict[str, Any]]:
        for line in text.removesuffix("\n").split("\n"):
            yield {"text": line}

    return _store(name, data_dir, features, {k: examples(t) for k, t in texts.items()})


def download(name: str, data_dir: str) -> pathlib.Path:
    """Lets TensorFlow Datasets fetch and prepare what it knows by that name; returns where.

    Raises:
      UserError: it does not know the name, or can't reach it.
    """
    try:
        builder = _library().builder(name, data_dir=data_dir or None)
        builder.download_and_prepare()
    except Exception as error:  # whatever a download may raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"TensorFlow Datasets can't download {name!r} ({reason}): get its files another way "
            "and give --source=DIR"
        ) from error
    return pathlib.Path(builder.data_dir)


def _store(
    name: str, data_dir: str, features: Mapping[str, Any], examples: Mapping[str, Iterator]
) -> pathlib.Path:
    tfds = _library()
    try:
        builder = tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=_VERSION,
            features=tfds.features.FeaturesDict(dict(features)),
            split_datasets={part: _numbered(rows) for part, rows in examples.items()},
            data_dir=data_dir or None,
            disable_shuffling=True,
        )
    except RuntimeError as error:
        if "already prepared" not in str(error):
            raise
        raise UserError(
            f"{name!r} is prepared already in {data_dir or 'the default place'}: remove it there, "
            "or give another --name"
        ) from error
    return pathlib.Path(builder.data_dir)


def _numbered(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    # The order of the files is that of the examples.
    return enumerate(rows)


def _builder(name: str, data_dir: str) -> Any:
    tfds = _library()
    from tensorflow_datasets.core import read_only_builder

    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir or None)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        place = f" --data_dir={data_dir}" if data_dir else ""
        raise UserError(
            f"{name!r} is not prepared there for TensorFlow Datasets: run python -m "
            f"experiments.prepare_data --name={name}{place}, with --source=DIR for files at hand"
        ) from error


def _library() -> ModuleType:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            "TensorFlow Datasets is not installed: pip install tensorflow-datasets"
        ) from error
    return tfds
