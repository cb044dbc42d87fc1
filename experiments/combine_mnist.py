"""Factorizes, prunes, clusters and quantizes one digit classifier, and measures each step.

A network of two convolutions and a hidden layer is trained, then taken through
`tfapprox.combining` on the data it was trained on:

  python -m experiments.combine_mnist --model_dir=DIR --keep_params=0.4

The data are scikit-learn's digits, or MNIST where its four IDX files are at hand
(--dataset=mnist --data_dir=DIR). Next to the right order stand two others that show why it
is one: factorizing what was pruned or clustered loses the zeros and the shared values. Needs
TFMOT: pip install 'tfapprox[experiments,tfmot]'.
"""

import dataclasses
import importlib.util
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging
from rich.table import Table

from experiments.command import run_command, save_flags
from experiments.console import wide_console
from experiments.datasets import Split, load_images
from experiments.models.mnist_cnn import mnist_cnn
from tfapprox.combining.keras_bridge import to_tf_keras
from tfapprox.combining.kernels import kernel_states
from tfapprox.combining.optimizing import Examples, cluster, prune
from tfapprox.combining.pipeline import CombineData, combine
from tfapprox.combining.result import TITLES, CombinedResult, cells, markdown, summary
from tfapprox.combining.steps import Cluster, Factorize, Prune, Quantize, Tuning
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError
from tfapprox.selection.problem import Budget

_LOSS = "sparse_categorical_crossentropy"


@dataclasses.dataclass(frozen=True)
class CombineConfig:
    """Settings of the experiment.

    Attributes:
      model_dir: gets a folder a step, result.json and result.md.
      dataset, data_dir: see `datasets.load_images`.
      keep_params, sparsity, clusters: of the steps.
      quantization: mode of `Quantize`.
      units: width of the hidden layer.
      epochs, tune_epochs: of the first training, and of each step.
      seed: of weights, split and order of examples.
    """

    model_dir: pathlib.Path
    dataset: str = "digits"
    data_dir: str = ""
    keep_params: float = 0.4
    sparsity: float = 0.5
    clusters: int = 16
    quantization: Any = "training"
    units: int = 256
    epochs: int = 15
    tune_epochs: int = 4
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class WrongOrder:
    """What is left of a step when the model is factorized after it."""

    step: str
    zeros_before: float
    zeros_after: float
    distinct_before: int
    distinct_after: int


def run_experiment(config: CombineConfig) -> tuple[CombinedResult, list[WrongOrder]]:
    """Trains, combines and compares; writes result.json and result.md.

    Raises:
      UserError: data or TFMOT are missing.
    """
    # Before anything is trained: what is missing or wrong is told of here.
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        raise UserError("this takes TFMOT: pip install '.[experiments,tfmot]' in the clone")
    tuning = Tuning(config.tune_epochs, learning_rate=3e-4, loss=_LOSS, seed=config.seed)
    steps = (
        Factorize(CompressionConfig(Budget("params", config.keep_params))),
        Prune(config.sparsity),
        Cluster(config.clusters),
        Quantize(config.quantization),
    )
    data = load_images(config.dataset, config.data_dir, seed=config.seed)
    train, test = _examples(data.train), _examples(data.test)
    model = _trained(config, data.classes, train)
    _, result = combine(model, steps, CombineData(train, test), config.model_dir, tuning)
    wrong = _wrong_orders(model, config, tuning, train)
    body = {**result.to_json(), "wrong_orders": [dataclasses.asdict(row) for row in wrong]}
    (config.model_dir / "result.json").write_text(json.dumps(body, indent=1) + "\n")
    (config.model_dir / "result.md").write_text(markdown(result.steps))
    return result, wrong


def _examples(split: Split) -> Examples:
    return Examples((split.x / 255).astype(np.float32), split.y)


def _trained(config: CombineConfig, classes: int, train: Examples) -> Any:
    from tensorflow import keras

    keras.utils.set_random_seed(config.seed)
    logits = mnist_cnn(units=config.units, classes=classes, input_shape=train.x.shape[1:])
    outputs = keras.layers.Softmax(name="classes")(logits.output)
    model = keras.Model(logits.input, outputs, name="mnist_cnn")
    model.compile(keras.optimizers.Adam(1e-3), _LOSS)
    model.fit(train.x, train.y, batch_size=50, epochs=config.epochs, verbose=0)
    return model


def _wrong_orders(
    model: Any, config: CombineConfig, tuning: Tuning, train: Examples
) -> list[WrongOrder]:
    """Returns what pruning and clustering leave behind when factorization follows."""
    from tfapprox.compression.keras_model import compress_model

    legacy, _ = to_tf_keras(model)
    pruned = prune(legacy, Prune(config.sparsity), tuning, train)
    clustered = cluster(legacy, Cluster(config.clusters), tuning, train, sparse=False)
    rows = []
    for name, changed in (("prune", pruned), ("cluster", clustered)):
        budget = CompressionConfig(Budget("params", config.keep_params))
        factorized, _ = compress_model(changed, budget, inputs=train.x[:8])
        before, after = summary(kernel_states(changed)), summary(kernel_states(factorized))
        rows.append(WrongOrder(name, before[0], after[0], before[1], after[1]))
    return rows


def show(result: CombinedResult, wrong: Sequence[WrongOrder]) -> None:
    """Prints the tables."""
    console = wide_console()
    table = Table(title=f"combined; sizes in kB, latency at batch {result.batch_size}")
    for title in TITLES:
        table.add_column(title, justify="left" if title == "after" else "right")
    for step in result.steps:
        table.add_row(*cells(step))
    console.print(table)
    for row in wrong:
        console.print(
            f"{row.step}, then factorize: zeros {row.zeros_before:.0%} -> {row.zeros_after:.0%}, "
            f"distinct values {row.distinct_before} -> {row.distinct_after}"
        )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for each field of the configuration."""
    own: dict[str, Any] = {"flag_values": values}
    default = CombineConfig(pathlib.Path())
    flags.DEFINE_string("model_dir", "", "Where results go (required).", **own)
    flags.DEFINE_string(
        "dataset",
        default.dataset,
        "digits (scikit-learn) or synthetic; any other name is read from --data_dir or by "
        "TensorFlow Datasets, e.g. mnist.",
        **own,
    )
    flags.DEFINE_string("data_dir", "", "Directory with the data set's files.", **own)
    flags.DEFINE_float("keep_params", default.keep_params, "Parameters to keep, (0, 1].", **own)
    flags.DEFINE_float("sparsity", default.sparsity, "Share of zeros in each kernel.", **own)
    flags.DEFINE_integer("clusters", default.clusters, "Distinct values in each kernel.", **own)
    flags.DEFINE_enum(
        "quantization",
        default.quantization,
        ["training", "post_training", "weights"],
        "When and what to round to 8 bits.",
        **own,
    )
    flags.DEFINE_integer("units", default.units, "Width of the hidden layer.", **own)
    flags.DEFINE_integer("epochs", default.epochs, "Of the first training.", **own)
    flags.DEFINE_integer("tune_epochs", default.tune_epochs, "Of each step.", **own)
    flags.DEFINE_integer("seed", default.seed, "Of weights, split and order.", **own)


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Runs the experiment that the flags describe; returns the exit status."""
    logging.set_verbosity(logging.WARNING)

    def measure() -> None:
        if not values.model_dir:
            raise UserError("--model_dir is required: it gets models and results")
        fields = {field.name for field in dataclasses.fields(CombineConfig)} - {"model_dir"}
        settings: dict[str, Any] = {name: values[name].value for name in fields}
        config = CombineConfig(pathlib.Path(values.model_dir), **settings)
        save_flags(values, config.model_dir)
        show(*run_experiment(config))

    return run_command("combine_mnist", argv, measure)


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: sys.exit(main(argv)))
