"""Trains networks dense, decomposed on the way, reconstructed, or decomposed afterwards."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from rich.console import Console
from rich.table import Table
from tensorflow import keras

from experiments.export import export_saved_model
from experiments.image_training import ImageTraining
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.training.decompose_in_training import (
    DecomposedFit,
    DecomposeInTraining,
    fit_with_decomposition,
)
from tfapprox.training.switching import decompose_model, describe

METHODS = ("original", "decompose", "reconstruct", "original_then_decompose")


@dataclasses.dataclass(frozen=True)
class TuckerExperiment:
    """What to train, when and how to decompose it.

    Attributes:
      training: network, data, schedule.
      settings: when to decompose, and how; its `reconstruct_at` is for the method of that name.
      methods: among METHODS.
    """

    training: ImageTraining
    settings: DecomposeInTraining
    methods: tuple[str, ...] = METHODS

    def __post_init__(self):
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise UserError(f"--methods must be among {', '.join(METHODS)}, got {self.methods}")
        if "reconstruct" in self.methods and self.settings.reconstruct_at is None:
            raise UserError("--methods has reconstruct, which needs --reconstruct_at")

    def settings_of(self, method: str) -> DecomposeInTraining:
        """Returns the settings with the switches of a method."""
        if method == "decompose":
            return dataclasses.replace(self.settings, reconstruct_at=None)
        if method == "reconstruct":
            return self.settings
        return dataclasses.replace(
            self.settings, at_epoch=self.training.config.epochs, reconstruct_at=None
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """One training, or a mean over seeds (then `seed` is how many).

    Attributes:
      test: accuracy in percent, of the last epoch as in the paper.
      spread: standard deviation over seeds, 0 for a single one.
      params, macs: while decomposed; of the dense model where it never is.
      dense_seconds, seconds: processor seconds of an epoch's training steps, medians
        before the switch and while decomposed, without the first of each, which
        compiles; 0 where there are none.
      total_seconds: processor seconds of training, all epochs.
    """

    method: str
    seed: int
    test: float
    spread: float
    params: int
    macs: int
    dense_seconds: float
    seconds: float
    total_seconds: float


class EpochSeconds(keras.callbacks.Callback):
    """Adds to each epoch's record the seconds and processor seconds of its training steps."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = time.perf_counter(), time.process_time()
        self._spent: tuple[float, float] | None = None

    def on_test_begin(self, logs: Any = None) -> None:
        self._spent = self._since()

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        logs["seconds"], logs["cpu_seconds"] = self._spent or self._since()
        logging.info("epoch %d %s", epoch + 1, {k: round(v, 4) for k, v in logs.items()})

    def _since(self) -> tuple[float, float]:
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]


def run_experiment(experiment: TuckerExperiment) -> list[Row]:
    """Trains every method with every seed; writes results.json and results.md.

    Each training has a folder METHOD-SEED with its state, metrics.jsonl, plan.json and
    the SavedModel. What is finished is not done again.

    Raises:
      UserError: data are missing, or the settings do not fit the network.
    """
    config = experiment.training.config
    rows = []
    for seed in range(config.seed, config.seed + config.seeds):
        for method in experiment.methods:
            rows.append(_train(experiment, method, seed))
            _write(experiment, rows)
    means = summarize(rows)
    Console().print(_table(experiment, means))
    return means


def _train(experiment: TuckerExperiment, method: str, seed: int) -> Row:
    training, settings = experiment.training, experiment.settings_of(method)
    root = training.config.model_dir
    folder, data = root / f"{method}-{seed}", training.load()
    model = training.model(data, seed)
    # The dense training serves both methods that go through all of it.
    first = "original" if method == "original_then_decompose" else method
    fitted = fit_with_decomposition(
        model,
        settings,
        lambda epoch: training.batches(data, seed, epoch),
        epochs=training.config.epochs,
        callbacks=[EpochSeconds()],
        validation_data=training.examples(data.valid),
        backup_dir=root / f"{first}-{seed}",
        verbose=0,
    )
    if method == "original_then_decompose":
        plan = settings.plan(fitted.model)
        fitted = DecomposedFit(decompose_model(fitted.model, plan), fitted.history, plan)
    folder.mkdir(parents=True, exist_ok=True)
    _write_metrics(fitted.history, folder / "metrics.jsonl")
    if fitted.plan is not None:
        (folder / "plan.json").write_text(fitted.plan.to_json())
        for line in describe(fitted.plan):
            logging.info("%s", line)
    export_saved_model(fitted.model, folder / "saved_model", training.sample(data))
    test = training.examples(data.test)
    accuracy = fitted.model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    return _row(method, seed, accuracy, settings, fitted, model)


def _row(
    method: str,
    seed: int,
    accuracy: float,
    settings: DecomposeInTraining,
    fitted: DecomposedFit,
    model: Any,
) -> Row:
    whole = inspect_keras_model(model).cost
    params, macs = whole.params, whole.macs
    if fitted.plan is not None:
        params += sum(v.after.params - v.before.params for v in fitted.plan.verdicts)
        macs += sum(v.after.macs - v.before.macs for v in fitted.plan.verdicts)
    seconds = fitted.history.history["cpu_seconds"]
    return Row(
        method,
        seed,
        100 * accuracy,
        0.0,
        params,
        macs,
        _median(seconds[: settings.at_epoch]),
        _median(seconds[settings.at_epoch : settings.reconstruct_at]),
        float(sum(seconds)),
    )


def _median(seconds: Sequence[float]) -> float:
    return float(np.median(seconds[1:] or seconds)) if seconds else 0.0


def _write_metrics(history: Any, path: pathlib.Path) -> None:
    names = list(history.history)
    with path.open("w") as file:
        for epoch, *values in zip(history.epoch, *history.history.values(), strict=True):
            record = {"epoch": epoch + 1, **dict(zip(names, values, strict=True))}
            file.write(json.dumps(record) + "\n")


def summarize(rows: Sequence[Row]) -> list[Row]:
    """Returns one row a method, in order of first appearance; times are medians."""
    means = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        tests = np.array([row.test for row in own])
        times = {
            name: float(np.median([getattr(row, name) for row in own]))
            for name in ("dense_seconds", "seconds", "total_seconds")
        }
        spread = float(tests.std(ddof=1)) if len(own) > 1 else 0.0
        params, macs = (
            round(np.mean([getattr(row, n) for row in own])) for n in ("params", "macs")
        )
        means.append(Row(method, len(own), float(tests.mean()), spread, params, macs, **times))
    return means


_TITLES = (
    "method",
    "test accuracy, % (std)",
    "parameters",
    "MACs, million",
    "CPU s an epoch, dense",
    "CPU s an epoch, after the switch",
    "CPU s in all",
)


def markdown(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [" | ".join(_TITLES), " | ".join("---" for _ in _TITLES)]
    lines += [" | ".join(_cells(row)) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.method,
        f"{row.test:.2f} ({row.spread:.2f})",
        f"{row.params:,}",
        f"{row.macs / 1e6:.1f}",
        f"{row.dense_seconds:.2f}" if row.dense_seconds else "",
        f"{row.seconds:.2f}" if row.seconds else "",
        f"{row.total_seconds:.1f}",
    )


def _table(experiment: TuckerExperiment, rows: Sequence[Row]) -> Table:
    training = experiment.training
    table = Table(title=f"{training.network} on {training.config.dataset}")
    for title in _TITLES:
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _write(experiment: TuckerExperiment, rows: Sequence[Row]) -> None:
    training, means = experiment.training, summarize(rows)
    body = {
        "config": training.config.to_json(),
        "network": training.network,
        "settings": dataclasses.asdict(experiment.settings),
        "rows": [dataclasses.asdict(row) for row in means],
        "trainings": [dataclasses.asdict(row) for row in rows],
    }
    folder = training.config.model_dir
    (folder / "results.json").write_text(json.dumps(body, indent=1))
    (folder / "results.md").write_text(markdown(means))
