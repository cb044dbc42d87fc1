"""Image data: digits and synthetic ones out of the box, files, TensorFlow Datasets."""

import dataclasses
import pathlib

import numpy as np

from experiments.image_files import Split, read_images
from experiments.prepared_data import load_prepared
from tfapprox.errors import UserError

__all__ = ["Data", "Split", "load_images"]


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

    def require_batch(self, size: int) -> None:
        """Refuses batches of more examples than there are to train on.

        Raises:
          UserError: naming both numbers.
        """
        if size > len(self.train):
            raise UserError(
                f"--batch_size={size} is more than the {len(self.train)} training examples: "
                "lower it, or take more of them"
            )


def load_images(
    name: str, data_dir: str = "", shape: tuple[int, int, int] | None = None, seed: int = 0
) -> Data:
    """Returns a data set; the last tenth of the training images, at most 5,000, validates.

    Args:
      name: "digits" (1,797 scanned 8x8 digits), "synthetic" (noisy prototypes of 10
        classes); else the name of IDX or CIFAR files in `data_dir`, or that of a data
        set prepared by TensorFlow Datasets. Nothing is downloaded.
      data_dir: of IDX files (plain or .gz) or CIFAR's .bin files, or where
        TensorFlow Datasets keeps its own.
      shape: height, width, channels to bring the images to: smaller ones are
        repeated and padded, grey ones tripled; pictures of different sizes are
        resized and cropped.
      seed: of the digits' split and of synthetic images.

    Raises:
      UserError: the data are not there; says where they are expected and what to do.
    """
    if name == "digits":
        train, test = _digits(seed)
    elif name == "synthetic":
        train, test = _synthetic(shape or (28, 28, 1), seed)
    else:
        train, test = _stored(name, data_dir, shape)
    if shape is not None:
        train, test = (Split(_reshape(part.x, shape), part.y) for part in (train, test))
    held = min(5000, len(train) // 10)
    return Data(
        Split(train.x[:-held], train.y[:-held]),
        Split(train.x[-held:], train.y[-held:]),
        test,
        int(train.y.max()) + 1,
    )


def _stored(name: str, data_dir: str, shape: tuple[int, int, int] | None) -> tuple[Split, Split]:
    folder = pathlib.Path(data_dir or "DIR")
    files = read_images(folder) if data_dir else None
    try:
        return files or load_prepared(name, data_dir, shape)
    except UserError as error:
        raise UserError(
            f"--dataset={name}: no {folder}/train-images-idx3-ubyte.gz, no CIFAR .bin files, and "
            f"{error}; or take --dataset=digits or synthetic"
        ) from error


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
