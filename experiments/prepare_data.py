"""Prepares a data set for the experiments, once, so that they never need a network.

From files at hand, told apart by their names (MNIST's IDX files, CIFAR's binaries, folders
of pictures train/CLASS/ and val/CLASS/ as ImageNet has them, ptb.{train,valid,test}.txt):

  python -m experiments.prepare_data --name=cifar100 --source=cifar-100-binary --data_dir=DATA

Without --source, by TensorFlow Datasets, which downloads what it knows by that name. Then

  python -m experiments.cifar_wrn --dataset=cifar100 --data_dir=DATA --model_dir=DIR
"""

import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from experiments.command import run_command
from experiments.corpus import PARTS, text_path
from experiments.image_files import find_pictures, read_images
from experiments.prepared_data import download, store_images, store_pictures, store_text
from tfapprox.errors import UserError


def prepare(name: str, source: str, data_dir: str, examples: int = 0) -> pathlib.Path:
    """Prepares a data set and returns where it lies.

    Args:
      name: under which experiments will ask for it, lower case.
      source: directory of files; "" downloads.
      data_dir: where to prepare; "" is TensorFlow Datasets' own place.
      examples: pictures of each split at most; 0 is all.

    Raises:
      UserError: nothing in `source` is known, or it is prepared already.
    """
    if not source:
        return download(name, data_dir)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"--name={name}: TensorFlow Datasets finds names of lower-case letters, digits and _ "
            "alone, e.g. cifar100"
        )
    folder = pathlib.Path(source)
    if not folder.is_dir():
        raise UserError(f"--source={source} is no directory")
    if (images := read_images(folder)) is not None:
        return store_images(name, data_dir, dict(zip(("train", "test"), images, strict=True)))
    if (pictures := find_pictures(folder)) is not None:
        return store_pictures(name, data_dir, pictures, examples)
    if all(text_path(source, part).exists() for part in PARTS):
        texts = {part: text_path(source, part).read_text() for part in PARTS}
        return store_text(name, data_dir, texts)
    raise UserError(
        f"--source={source} has no data set: wanted are four IDX files, CIFAR's .bin files, "
        "train/CLASS/ and val/CLASS/ with pictures, or ptb.train.txt, ptb.valid.txt, ptb.test.txt"
    )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this binary."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("name", "", "Name to give it, e.g. cifar100 (required).", **own)
    flags.DEFINE_string("source", "", "Directory with its files; default: download it.", **own)
    flags.DEFINE_string(
        "data_dir", "", "Where to prepare it; default: TensorFlow Datasets' own place.", **own
    )
    flags.DEFINE_integer("examples", 0, "Pictures of each split at most; 0 is all.", **own)


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Prepares what the flags say; returns the exit status."""

    def lay_out() -> None:
        if not values.name:
            raise UserError("--name is required: experiments ask for it by --dataset=NAME")
        place = prepare(values.name, values.source, values.data_dir, values.examples)
        print(f"{values.name} lies in {place}; use it with --dataset={values.name}", end="")
        print(f" --data_dir={values.data_dir}" if values.data_dir else "")

    return run_command("prepare_data", argv, lay_out)


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: sys.exit(main(argv)))
