"""Two image classifiers to compress, trained here in minutes and kept on disk.

  python -m experiments.fashion_networks --network=resnet20 --output_dir=DIR --data_dir=DATA

writes DIR/resnet20/saved_model, and inputs that training never saw. A run that was
stopped goes on with the epoch it was in; one that is done is not repeated.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging
from tensorflow import keras

from experiments import harness
from experiments.config import ExperimentConfig
from experiments.datasets import Data, Split, load_images
from experiments.images import to_unit, whiten
from experiments.models.mnist_cnn import mnist_cnn
from experiments.models.resnet_cifar import resnet_cifar
from experiments.task import Task
from tfapprox.errors import UserError

INPUT = "inputs"
"""Input key of the exported models."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A classifier and its training.

    Attributes:
      build: shape of an image to a Keras model that ends in logits.
      shape: [height, width, channels] that images are brought to; None leaves them.
      standardize: uint8 images to what the model takes.
      train_examples, epochs, batch_size: small enough for a CPU.
      learning_rate: of Adam at the start, falling as a cosine to 0.
    """

    build: Any
    shape: tuple[int, int, int] | None
    standardize: Any
    train_examples: int
    epochs: int
    batch_size: int
    learning_rate: float


NETWORKS = {
    "cnn": Network(lambda s: mnist_cnn(input_shape=s), None, to_unit, 10_000, 4, 64, 1e-3),
    "resnet20": Network(
        lambda s: resnet_cifar(20, input_shape=s), (32, 32, 3), whiten, 6_000, 7, 64, 3e-3
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """What a trained network is calibrated and judged with.

    Attributes:
      calibration: standardized inputs [n, ...] that training saw.
      held_back, labels: inputs that neither training nor calibration saw, and their classes.
    """

    calibration: np.ndarray
    held_back: np.ndarray
    labels: np.ndarray


def trained(
    name: str, folder: pathlib.Path, dataset: str, data_dir: str, *, seed: int = 0, epochs: int = 0
) -> pathlib.Path:
    """Returns the SavedModel of a trained network; trains it unless it is there.

    Args:
      name: in `NETWORKS`.
      folder: gets checkpoints, metrics.jsonl and saved_model.
      dataset, data_dir: see `datasets.load_images`.
      seed: of weights and order.
      epochs: instead of the network's own number, where positive.

    Raises:
      UserError: no such network, or the data are not there.
    """
    network = _look_up(name)
    done = folder / "done.json"
    if not done.exists():
        task = Task(
            name,
            lambda config: _load(network, config.dataset, config.data_dir),
            lambda config, data: network.build(data.train.x.shape[1:]),
            lambda config, steps: keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(network.learning_rate, config.epochs * steps)
            ),
            network.standardize,
        )
        config = ExperimentConfig(
            folder, dataset=dataset, data_dir=data_dir, seed=seed, epochs=epochs or network.epochs,
            batch_size=network.batch_size, resume=True,
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        result = harness.train(task, config, "exact", seed, folder)
        done.write_text(json.dumps({"test_accuracy": result.test, "seed": seed}) + "\n")
    return folder / "saved_model"


def examples(name: str, dataset: str, data_dir: str, calibration: int, held_back: int) -> Examples:
    """Returns inputs for a trained network, as its signature takes them.

    Args:
      calibration, held_back: how many examples of each.
    """
    network = _look_up(name)
    data = load_images(dataset, data_dir, network.shape)
    seen, unseen = data.train.x[:calibration], data.test.x[-held_back:]
    return Examples(
        np.asarray(network.standardize(seen)),
        np.asarray(network.standardize(unseen)),
        data.test.y[-held_back:],
    )


def _look_up(name: str) -> Network:
    if name not in NETWORKS:
        raise UserError(f"unknown network {name!r}; choose among {', '.join(NETWORKS)}")
    return NETWORKS[name]


def _load(network: Network, dataset: str, data_dir: str) -> Data:
    """Returns the data, cut short: evaluating thousands would take longer than training."""
    data = load_images(dataset, data_dir, network.shape)
    counts = {"train": network.train_examples, "valid": 500, "test": 1000}
    parts: dict[str, Any] = {
        part: Split(getattr(data, part).x[:count], getattr(data, part).y[:count])
        for part, count in counts.items()
    }
    return dataclasses.replace(data, **parts)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this binary."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum("network", "cnn", list(NETWORKS), "What to train.", **own)
    flags.DEFINE_string("output_dir", "", "Where NETWORK/saved_model goes (required).", **own)
    flags.DEFINE_string("dataset", "fashion_mnist", "See experiments.datasets.", **own)
    flags.DEFINE_string("data_dir", "", "Directory with the data set's files.", **own)
    flags.DEFINE_integer("epochs", 0, "0 is the network's own number.", **own)
    flags.DEFINE_integer("seed", 0, "Of weights and order.", **own)


def main(argv: Sequence[str]) -> int:
    """Trains the network that the flags name; returns the exit status."""
    logging.set_verbosity(logging.INFO)
    values = flags.FLAGS
    try:
        if len(argv) > 1 or not values.output_dir:
            raise UserError("give --output_dir; everything is a flag, see --help")
        folder = pathlib.Path(values.output_dir, values.network)
        path = trained(
            values.network, folder, values.dataset, values.data_dir,
            seed=values.seed, epochs=values.epochs,
        )  # fmt: skip
        print(f"{path}: {(folder / 'done.json').read_text().strip()}")
    except UserError as error:
        print(f"fashion_networks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: sys.exit(main(argv)))
