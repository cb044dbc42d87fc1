"""Trains the methods of `csg_methods` by the common harness, and tabulates them."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from rich.table import Table
from tensorflow import keras

from experiments.config import ExperimentConfig
from experiments.console import wide_console
from experiments.csg_methods import (
    AFTER_TRAINING,
    METHODS,
    SliceSettings,
    build_model,
    find_network,
    save_generator,
)
from experiments.datasets import Data, Split, load_images
from experiments.harness import train
from experiments.images import crop_and_flip, whiten
from experiments.resumable_training import evaluate
from experiments.task import Task
from tfapprox.errors import UserError
from tfapprox.layers.slice_generator import SliceGenerator
from tfapprox.rewriters.export_slices import export_slices
from tfapprox.rewriters.generate_slices import generate_slices, strip_slices
from tfapprox.training.trade_off import spread_of, with_spread

# The paper adds 5e-4 w to the gradients of SGD with momentum 0.9. Keras decays apart from
# the gradient, where the same strength in the long run is 5e-4 / (1 - 0.9).
_DECAY = 5e-3


@dataclasses.dataclass(frozen=True)
class CsgExperiment:
    """One network, several methods.

    Attributes:
      config: data, length, seeds and folder, shared with the other experiments.
      network: name, see `find_network`.
      slices: of the generated methods.
      methods: what to train, in order; plain must come before post.
      image_size: height and width.
      augment: whether to crop and flip.
      train_examples: how many training images to use, 0 for all.
      tune_epochs: of post_tuned, at a tenth of the learning rate.
    """

    config: ExperimentConfig
    network: str
    slices: SliceSettings
    methods: tuple[str, ...]
    image_size: int = 32
    augment: bool = True
    train_examples: int = 0
    tune_epochs: int = 1

    def result_settings_of(self, method: str) -> dict[str, Any]:
        """Returns what a training by the method depends on, beside `config`."""
        names = ["network", "image_size", "augment", "train_examples"]
        names += ["slices"] * (method not in ("plain", "fp16"))
        return {name: value for name, value in dataclasses.asdict(self).items() if name in names}

    def __post_init__(self):
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise UserError(f"--methods must be among {', '.join(METHODS)}, got {self.methods}")
        for method in AFTER_TRAINING:
            if method in self.methods and "plain" not in self.methods[: _index(self, method)]:
                raise UserError(f"--methods has {method}, which needs plain before it")


@dataclasses.dataclass(frozen=True)
class Row:
    """One training, or a mean over seeds.

    Attributes:
      params: trainable parameters.
      test_error: percent, at the last epoch as in the paper.
      spread: standard deviation over seeds, None for a single one.
      dense_bytes: size of the SavedModel with dense kernels.
      folded_bytes: size with codes and generator; 0 where nothing is generated.
      step_seconds: median, 0 without training.
    """

    method: str
    params: int
    test_error: float
    spread: float | None
    dense_bytes: int
    folded_bytes: int
    step_seconds: float


def run_experiment(experiment: CsgExperiment) -> list[Row]:
    """Trains every method with every seed; keeps results.json and results.md up to date.

    One training goes to model_dir itself, several to model_dir/METHOD-SEED.

    Raises:
      UserError: data are missing, or the network has no such form.
    """
    config = experiment.config
    single = len(experiment.methods) == 1 and config.seeds == 1
    rows = []
    for seed in range(config.seed, config.seed + config.seeds):
        for method in experiment.methods:
            folder = config.model_dir / ("." if single else f"{method}-{seed}")
            run = _post if method == "post" else _train
            rows.append(run(experiment, method, seed, folder))
            _write(experiment, rows)
    means = summarize(rows)
    wide_console().print(_table(experiment, means))
    return means


def _write(experiment: CsgExperiment, rows: Sequence[Row]) -> None:
    means = summarize(rows)
    body = {
        "config": experiment.config.to_json(),
        "network": experiment.network,
        "slices": dataclasses.asdict(experiment.slices),
        "rows": [dataclasses.asdict(row) for row in means],
        "trainings": [dataclasses.asdict(row) for row in rows],
    }
    folder = experiment.config.model_dir
    (folder / "results.json").write_text(json.dumps(body, indent=1))
    (folder / "results.md").write_text(markdown(means))


def summarize(rows: Sequence[Row]) -> list[Row]:
    """Returns one row a method, in order of first appearance."""
    means = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        errors = np.array([row.test_error for row in own])
        spread = spread_of(errors)
        seconds = float(np.median([row.step_seconds for row in own]))
        means.append(
            dataclasses.replace(
                own[0], test_error=float(errors.mean()), spread=spread, step_seconds=seconds
            )
        )
    return means


def _train(experiment: CsgExperiment, method: str, seed: int, folder: pathlib.Path) -> Row:
    half = method in ("fp16", "csg_fp16")
    # Each seed draws its own split where the data set has none.
    config = dataclasses.replace(experiment.config, seed=seed)
    if half:
        config = dataclasses.replace(config, mixed_precision="mixed_float16")
    if method == "post_tuned":
        config = dataclasses.replace(
            config,
            epochs=experiment.tune_epochs,
            steps=0,
            learning_rate=config.learning_rate / 10,
        )
    finished: list[Any] = []

    def build(config: ExperimentConfig, data: Data) -> Any:
        if method == "post_tuned":
            return _fitted(experiment, data, seed)
        return _fresh(experiment, method, data)

    def serving_model(config: ExperimentConfig, data: Data, model: Any) -> Any:
        finished.append(model)
        return strip_slices(model) if _generators(model) else model

    task = _task(experiment, method, build, serving_model)
    result = train(task, config, method, seed, folder)
    error = 100 * (1 - result.history[-1]["test_accuracy"])
    return _row(method, finished[0], error, result.step_seconds, folder)


def _post(experiment: CsgExperiment, method: str, seed: int, folder: pathlib.Path) -> Row:
    """Fits codes and generator to the plain network; nothing is trained."""
    task = _task(experiment, method, lambda config, data: None, None)
    config = dataclasses.replace(experiment.config, seed=seed)
    data = task.load(config)
    model = _fitted(experiment, data, seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    accuracy = evaluate(task, config, model, data.test)["accuracy"]
    folder.mkdir(parents=True, exist_ok=True)
    export_slices(model, folder / "saved_model", "dense")
    return _row(method, model, 100 * (1 - accuracy), 0.0, folder)


def _row(method: str, model: Any, error: float, seconds: float, folder: pathlib.Path) -> Row:
    generators, folded = _generators(model), 0
    if generators:
        folded = export_slices(model, folder / "saved_model_folded", "folded")
        save_generator(generators[0], folder / "generator.npz")
    dense = sum(p.stat().st_size for p in (folder / "saved_model").rglob("*") if p.is_file())
    params = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return Row(method, params, error, None, dense, folded, seconds)


def _task(
    experiment: CsgExperiment, method: str, build: Callable, serving_model: Callable | None
) -> Task:
    size = experiment.image_size

    def load(config: ExperimentConfig) -> Data:
        data = load_images(config.dataset, config.data_dir, (size, size, 3), config.seed)
        count = experiment.train_examples or len(data.train)
        first = Split(data.train.x[:count], data.train.y[:count])
        return dataclasses.replace(data, train=first)

    return Task(
        "cifar_csg",
        load,
        build,
        _optimizer,
        whiten,
        prepare=crop_and_flip if experiment.augment else None,
        serving_model=serving_model,
        trial="--network=resnet8 --epochs=2 --train_examples=512 --batch_size=32",
        settings=experiment.result_settings_of(method),
    )


def _optimizer(config: ExperimentConfig, steps: int) -> Any:
    total = config.steps or config.epochs * steps
    boundaries = [total // 2, total * 3 // 4]
    rates = [config.learning_rate / divisor for divisor in (1, 10, 100)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
    return keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=_DECAY)


def _fresh(experiment: CsgExperiment, method: str, data: Data) -> Any:
    size = experiment.image_size
    network = find_network(experiment.network)
    return build_model(method, network, experiment.slices, data.classes, (size, size, 3))


def _fitted(experiment: CsgExperiment, data: Data, seed: int) -> Any:
    """Returns the plain network of this seed, trained, with generated kernels."""
    plain = _fresh(experiment, "plain", data)
    _restore(plain, experiment.config.model_dir / f"plain-{seed}" / "checkpoints")
    slices = experiment.slices
    return generate_slices(
        plain, slices.slice_shape, slices.code_size, slices.which, fit=True
    ).model


def _restore(model: Any, folder: pathlib.Path) -> None:
    latest = tf.train.latest_checkpoint(str(folder))
    if latest is None:
        raise UserError(f"{folder} has no checkpoint of the plain network")
    variables = [v if isinstance(v, tf.Variable) else v.value for v in model.variables]
    tf.train.Checkpoint(model=variables).restore(latest).expect_partial()


def _generators(model: Any) -> list[SliceGenerator]:
    return [layer for layer in model.layers if isinstance(layer, SliceGenerator)]


def _index(experiment: CsgExperiment, method: str) -> int:
    return experiment.methods.index(method)


_TITLES = (
    "method",
    "# param.",
    "test error, % (std)",
    "ratio",
    "SavedModel, kB",
    "folded, kB",
    "s a step",
)


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    plain = next((other.params for other in rows if other.method == "plain"), None)
    return (
        row.method,
        f"{row.params:,}",
        with_spread(row.test_error, row.spread),
        f"{plain / row.params:.2f}x" if plain else "",
        f"{row.dense_bytes / 1000:.0f}",
        f"{row.folded_bytes / 1000:.0f}" if row.folded_bytes else "",
        f"{row.step_seconds:.3f}" if row.step_seconds else "",
    )


def markdown(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [" | ".join(_TITLES), " | ".join("---" for _ in _TITLES)]
    lines += [" | ".join(_cells(row, rows)) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def _table(experiment: CsgExperiment, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{experiment.network} on {experiment.config.dataset}")
    for title in _TITLES:
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in rows:
        table.add_row(*_cells(row, rows))
    return table
