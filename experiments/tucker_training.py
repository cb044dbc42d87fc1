"""Trains networks dense, decomposed on the way, reconstructed, or decomposed afterwards."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from absl import logging
from rich.table import Table
from tensorflow import keras

from experiments.console import wide_console
from experiments.datasets import Data
from experiments.export import export_saved_model
from experiments.image_training import ImageTraining, keep_to_model_dir
from experiments.tucker_results import (
    TITLES,
    Row,
    cells,
    markdown,
    median_seconds,
    plot_curves,
    summarize,
    trade_off,
)
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
      fine_tune_epochs: of `original_then_decompose`, after all others; may be 0.
    """

    training: ImageTraining
    settings: DecomposeInTraining
    methods: tuple[str, ...] = METHODS
    fine_tune_epochs: int = 0

    def __post_init__(self):
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise UserError(f"--methods must be among {', '.join(METHODS)}, got {self.methods}")
        if "reconstruct" in self.methods and self.settings.reconstruct_at is None:
            raise UserError("--methods has reconstruct, which needs --reconstruct_at")
        if self.fine_tune_epochs < 0:
            raise UserError(f"--fine_tune_epochs must be at least 0, got {self.fine_tune_epochs}")

    @property
    def result_settings(self) -> dict[str, Any]:
        """What the results of every method and seed depend on."""
        switches = dataclasses.asdict(self.settings)
        return (
            self.training.result_settings | switches | {"fine_tune_epochs": self.fine_tune_epochs}
        )

    def settings_of(self, method: str) -> DecomposeInTraining:
        """Returns the settings with the switches of a method."""
        if method == "decompose":
            return dataclasses.replace(self.settings, reconstruct_at=None)
        if method == "reconstruct":
            return self.settings
        last = self.training.config.epochs if method == "original_then_decompose" else None
        return dataclasses.replace(self.settings, at_epoch=last, reconstruct_at=None)

    def epochs_of(self, method: str) -> int:
        """Returns how many epochs a method trains."""
        more = self.fine_tune_epochs if method == "original_then_decompose" else 0
        return self.training.config.epochs + more


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
    the SavedModel; curves.png has all. What is finished is not done again.

    Raises:
      UserError: data are missing, the settings do not fit the network, or model_dir has
        results of others.
    """
    config = experiment.training.config
    rows: list[Row] = []
    histories: dict[tuple[str, int], dict[str, list[float]]] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        for method in experiment.methods:
            row, histories[method, seed] = _train(experiment, method, seed)
            rows.append(row)
            _write(experiment, rows)
            plot_curves(histories, experiment.training.network, config.model_dir / "curves.png")
    means = summarize(rows)
    wide_console().print(_table(experiment, means))
    return means


def _train(
    experiment: TuckerExperiment, method: str, seed: int
) -> tuple[Row, dict[str, list[float]]]:
    training, settings = experiment.training, experiment.settings_of(method)
    root = training.config.model_dir
    folder, data = root / f"{method}-{seed}", training.load()
    keep_to_model_dir(experiment)
    model = training.model(data, seed)
    if method == "original_then_decompose":
        # The dense training serves both methods that go through all of it.
        dense, place = experiment.settings_of("original"), root / f"original-{seed}"
        first = _fit(training, data, seed, model, dense, place, (0, training.config.epochs))
        fitted = _decompose_trained(experiment, data, seed, first, folder)
    else:
        fitted = _fit(training, data, seed, model, settings, folder, (0, training.config.epochs))
    folder.mkdir(parents=True, exist_ok=True)
    _write_metrics(fitted.history, folder / "metrics.jsonl")
    if fitted.plan is not None:
        (folder / "plan.json").write_text(fitted.plan.to_json())
        for line in describe(fitted.plan):
            logging.info("%s", line)
    export_saved_model(fitted.model, folder / "saved_model", training.sample(data))
    valid, test = (
        fitted.model.evaluate(training.examples(part), verbose=0, return_dict=True)["accuracy"]
        for part in (data.valid, data.test)
    )
    return _row(method, seed, (valid, test), settings, fitted, model), fitted.history.history


def _fit(
    training: ImageTraining,
    data: Data,
    seed: int,
    model: Any,
    settings: DecomposeInTraining,
    folder: pathlib.Path,
    epochs: tuple[int, int],
) -> DecomposedFit:
    """Trains from the first of the epochs up to the second, on the folder's backup."""
    return fit_with_decomposition(
        model,
        settings,
        lambda epoch: training.batches(data, seed, epoch),
        initial_epoch=epochs[0],
        epochs=epochs[1],
        callbacks=[EpochSeconds()],
        validation_data=training.examples(data.valid),
        backup_dir=folder,
        verbose=0,
    )


def _decompose_trained(
    experiment: TuckerExperiment, data: Data, seed: int, dense: DecomposedFit, folder: pathlib.Path
) -> DecomposedFit:
    """Returns the trained model decomposed and tuned; History has the dense epochs, too."""
    settings = experiment.settings_of("original_then_decompose")
    first, last = experiment.training.config.epochs, experiment.epochs_of("original_then_decompose")
    if first == last:
        plan = settings.plan(dense.model)
        return DecomposedFit(decompose_model(dense.model, plan), dense.history, plan)
    tuned = _fit(experiment.training, data, seed, dense.model, settings, folder, (first, last))
    history = tuned.history
    history.epoch = [*dense.history.epoch, *history.epoch]
    history.history = {k: [*dense.history.history[k], *v] for k, v in history.history.items()}
    return tuned


def _row(
    method: str,
    seed: int,
    accuracies: tuple[float, float],
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
    switch = len(seconds) if settings.at_epoch is None else settings.at_epoch
    return Row(
        method,
        seed,
        100 * accuracies[0],
        100 * accuracies[1],
        None,
        params,
        macs,
        params / whole.params,
        macs / whole.macs,
        median_seconds(seconds[:switch]),
        median_seconds(seconds[switch : settings.reconstruct_at]),
        float(sum(seconds)),
    )


def _write_metrics(history: Any, path: pathlib.Path) -> None:
    names = list(history.history)
    with path.open("w") as file:
        for epoch, *values in zip(history.epoch, *history.history.values(), strict=True):
            record = {"epoch": epoch + 1, **dict(zip(names, values, strict=True))}
            file.write(json.dumps(record) + "\n")


def _table(experiment: TuckerExperiment, rows: Sequence[Row]) -> Table:
    training = experiment.training
    table = Table(title=f"{training.network} on {training.config.dataset}")
    for title in TITLES:
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in rows:
        table.add_row(*cells(row))
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
    keep = experiment.settings.budget.keep or 1.0
    points = [trade_off(r, keep, experiment.epochs_of(r.method)).to_json() for r in rows]
    (folder / "trade_offs.json").write_text(json.dumps(points, indent=1))
    (folder / "results.md").write_text(markdown(means))
