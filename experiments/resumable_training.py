"""A training that is killed at any moment goes on exactly as it would have."""

import contextlib
import math
import pathlib
import time
from typing import Any

import numpy as np
import tensorflow as tf

from experiments.checkpoints import Checkpoints
from experiments.config import ExperimentConfig
from experiments.datasets import Data, Split
from experiments.memory import peak_memory, reset_peak_memory
from experiments.progress import TrainingProgress, training_progress
from experiments.settings_file import keep_to_settings
from experiments.task import Task
from experiments.training_log import Record, RecordFile, merge, tensorboard
from tfapprox.errors import UserError
from tfapprox.rewriters.model_compute import model_compute_reduction
from tfapprox.training.keep_shares import expected_kernels, fold_keep_shares
from tfapprox.training.recalibration import recalibrate_batch_norm
from tfapprox.training.sampling_schedules import sampled_layers, set_ratios

# Training batches looked at after each epoch, for the statistics of batch normalization
# and for how often sampling keeps a channel.
_RECALIBRATION_BATCHES = 20


class ResumableTraining:
    """One training from wherever its last checkpoint left it."""

    def __init__(
        self,
        task: Task,
        config: ExperimentConfig,
        data: Data,
        model: Any,
        method: str,
        seed: int,
        folder: pathlib.Path,
    ):
        self._task, self._config, self._data, self._model = task, config, data, model
        self._method, self._seed, self._folder = method, seed, folder
        self._steps = len(data.train) // config.batch_size
        self._total = config.steps or config.epochs * self._steps
        share = config.exact_share if method == "crs_exact_end" else 0.0
        self._sampled_steps = self._total - round(share * self._total)
        kept = folder / "settings.json"
        if not config.resume:
            kept.unlink(missing_ok=True)
        settings = {"experiment": task.name, "method": method, **config.settings_of(method)}
        remedy = f"give what {kept} says, or another --model_dir"
        keep_to_settings(kept, settings | {"seed": seed} | dict(task.settings), remedy)
        self._state = state = _checkpoints(model, folder / "checkpoints", config.resume)
        done = (state.epoch, state.step)
        self._epochs = RecordFile(
            folder / "metrics.jsonl", lambda record: record["epoch"] <= state.epoch
        )
        self._segments = RecordFile(
            folder / "segments.jsonl", lambda record: (record["epoch"] - 1, record["step"]) <= done
        )

    def run(self) -> tuple[list[Record], list[Record]]:
        """Trains to the end; returns a record for each epoch, and for each segment."""
        label = f"{self._method} seed {self._seed}"
        done = self._state.epoch * self._steps + self._state.step
        epochs = math.ceil(self._total / self._steps)
        batch = next(iter(self._batches(0, 0)))
        with (
            tensorboard(self._folder, self._model, batch) as board,
            training_progress(label, self._total, done) as progress,
        ):
            length = self._task.length(
                self._total, self._config.batch_size, self._model.count_params()
            )
            progress.say(f"{label}: {length}")
            for epoch in range(self._state.epoch, epochs):
                steps = min(self._steps, self._total - epoch * self._steps)
                record = self._run_epoch(epoch, steps, progress)
                self._epochs.append(record)
                self._state.save(epoch + 1)
                board(record)
                progress.say(f"{label} {_line(record, epochs)}")
        if self._config.evaluation == "expected":
            fold_keep_shares(self._model, self._few_batches(epochs - 1))
        return self._epochs.records, self._segments.records

    def _run_epoch(self, epoch: int, steps: int, progress: TrainingProgress) -> Record:
        stride = self._config.checkpoint_steps or steps
        if not self._state.step:
            _reset_states(self._model)
        while self._state.step < steps:
            start, stop = self._state.step, min(self._state.step + stride, steps)
            left = self._sampled_steps - epoch * self._steps - start
            if left <= 0:
                set_ratios(self._model, dict.fromkeys(sampled_layers(self._model), 1.0))
            else:
                stop = min(stop, start + left)
            self._segments.append(self._run_segment(epoch, start, stop, progress))
            self._state.save(epoch, stop)
        record = merge([s for s in self._segments.records if s["epoch"] == epoch + 1])
        return record | self._evaluate(epoch)

    def _run_segment(self, epoch: int, start: int, stop: int, progress: TrainingProgress) -> Record:
        reset_peak_memory()
        clock, cpu = time.perf_counter(), time.process_time()
        batches = self._batches(epoch, start).take(stop - start)
        # The dataset comes in its order; Keras warns when asked to shuffle one.
        fitted = self._model.fit(
            batches,
            epochs=epoch + 1,
            initial_epoch=epoch,
            verbose=0,
            shuffle=False,
            callbacks=[progress.callback()],
        )
        return {
            "epoch": epoch + 1,
            "step": stop,
            "steps": stop - start,
            "seconds": time.perf_counter() - clock,
            "cpu_seconds": time.process_time() - cpu,
            "peak_memory_mib": peak_memory(),
            "compute_reduction": model_compute_reduction(self._model, self._config.batch_size),
            **{f"train_{name}": float(values[0]) for name, values in fitted.history.items()},
        }

    def _evaluate(self, epoch: int) -> Record:
        few, expected = self._few_batches(epoch), self._config.evaluation == "expected"
        record: Record = {}
        with expected_kernels(self._model, few) if expected else contextlib.nullcontext():
            if sampled_layers(self._model):
                recalibrate_batch_norm(self._model, few.map(lambda x, y: x))
            for name, split in (("valid", self._data.valid), ("test", self._data.test)):
                results = evaluate(self._task, self._config, self._model, split)
                record |= {f"{name}_{key}": value for key, value in results.items()}
        return record

    def _few_batches(self, epoch: int) -> tf.data.Dataset:
        return self._batches(epoch, 0).take(_RECALIBRATION_BATCHES)

    def _batches(self, epoch: int, start: int) -> tf.data.Dataset:
        size = self._config.batch_size
        return training_batches(self._task, self._data, size, self._seed, epoch, start)


def training_batches(
    task: Task, data: Data, batch_size: int, seed: int, epoch: int, start: int = 0
) -> tf.data.Dataset:
    """Returns one epoch of batches of equal size, in an order set by seed and epoch.

    Args:
      start: how many batches to leave out at the beginning.
    """
    train = data.train
    order = np.arange(len(train))
    if data.shuffle:
        order = np.random.default_rng([seed, epoch]).permutation(order)
    x, y = tf.constant(train.x), tf.constant(train.y)
    prepare = task.prepare or (lambda x, seed: x)

    def fetch(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seeds = tf.stack([indices[0], tf.constant(seed * 1000 + epoch, indices.dtype)])
        return task.standardize(prepare(tf.gather(x, indices), seeds)), tf.gather(y, indices)

    order = order[start * batch_size :]
    batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)
    return batches.map(fetch).prefetch(2)


def evaluate(task: Task, config: ExperimentConfig, model: Any, split: Split) -> dict[str, float]:
    """Returns loss and accuracy or perplexity of the (exact) model on a split."""
    _reset_states(model)
    batch = config.batch_size if task.measure == "perplexity" else 500
    dataset = tf.data.Dataset.from_tensor_slices((split.x, split.y)).batch(batch)
    results = model.evaluate(
        dataset.map(lambda x, y: (task.standardize(x), y)), verbose=0, return_dict=True
    )
    _reset_states(model)
    if task.measure == "perplexity":
        return {"loss": results["loss"], "perplexity": math.exp(min(results["loss"], 50))}
    return {key: float(value) for key, value in results.items()}


def _checkpoints(model: Any, folder: pathlib.Path, resume: bool) -> Checkpoints:
    try:
        return Checkpoints(model, folder, resume)
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"--resume: {folder} is of a training with other settings: give them "
            f"(--flagfile={folder.parent}/flags.txt), or another --model_dir"
        ) from error


def _reset_states(model: Any) -> None:
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            (layer.reset_state if hasattr(layer, "reset_state") else layer.reset_states)()


def _line(record: dict[str, float], epochs: int) -> str:
    shown = ("train_loss", "valid_accuracy", "test_accuracy", "valid_perplexity", "test_perplexity")
    values = " ".join(f"{name} {record[name]:.4f}" for name in shown if name in record)
    left = (epochs - record["epoch"]) * record["seconds"]
    return f"epoch {record['epoch']}/{epochs} {values} {record['seconds']:.1f} s, {left:.0f} s left"
