"""Trains one model of an experiment: checkpoints, exact resumption, metrics, export."""

import contextlib
import dataclasses
import math
import pathlib
import time
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow import keras

from experiments.checkpoints import Checkpoints
from experiments.compress_trained import compress_trained
from experiments.config import ExperimentConfig
from experiments.datasets import Data, Split
from experiments.export import export_saved_model
from experiments.memory import peak_memory, reset_peak_memory
from experiments.progress import TrainingProgress, training_progress
from experiments.settings_file import keep_to_settings
from experiments.task import Task
from experiments.training_log import Record, RecordFile, merge, tensorboard
from tfapprox.errors import UserError
from tfapprox.rewriters.approximate_training import (
    ApproximateTrainingConfig,
    approximate_training,
    strip,
)
from tfapprox.rewriters.model_compute import kept_activation_bytes, model_compute_reduction
from tfapprox.sampling.settings import Sampling
from tfapprox.training.keep_shares import expected_kernels, fold_keep_shares
from tfapprox.training.recalibration import recalibrate_batch_norm
from tfapprox.training.sampling_schedules import sampled_layers, set_ratios

# Training batches looked at after each epoch, for the statistics of batch normalization
# and for how often sampling keeps a channel.
_RECALIBRATION_BATCHES = 20


@dataclasses.dataclass(frozen=True)
class Result:
    """What one training gave.

    Attributes:
      method, seed: which training.
      history: one record an epoch, as in metrics.jsonl.
      segments: one record for the steps between checkpoints, in order: how many, and
        their loss.
      test: accuracy or perplexity on the test set, of the epoch that was best on
        the validation set.
      compute_reduction: share of training MACs saved, by the paper's convention.
      step_seconds: median over epochs, without the first, of seconds a step.
      step_cpu_seconds: the same of the process's CPU time, the steadier measure on a
        machine that others use.
      kept_bytes: inputs of linear layers kept for one step's backward pass.
    """

    method: str
    seed: int
    history: list[dict[str, float]]
    segments: list[dict[str, float]]
    test: float
    compute_reduction: float
    step_seconds: float
    step_cpu_seconds: float
    kept_bytes: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def train(
    task: Task, config: ExperimentConfig, method: str, seed: int, folder: pathlib.Path
) -> Result:
    """Trains by one method and exports the result to `folder`/saved_model.

    After each epoch, or every config.checkpoint_steps steps, a checkpoint holds weights,
    optimizer, draw counters, seeds and recurrent states; the order of examples follows
    from seed and epoch. So a run that was killed goes on, with config.resume, exactly as
    it would have.

    Raises:
      UserError: data are missing, settings do not fit the model, or the folder has a
        training with others, to be resumed.
    """
    if config.compress and task.measure != "accuracy":
        raise UserError(f"--compress is for image classifiers, not for {task.name}")
    data = task.load(config)
    data.require_batch(config.batch_size)
    _set_up_process(config, seed)
    model = _build(task, config, data, config.sampling_of(method), seed)
    training = _Training(task, config, data, model, method, seed, folder)
    records, segments = training.run()
    stock = strip(model) if config.sampling_of(method) else model
    served = task.serving_model(config, data, stock) if task.serving_model else stock
    sample = np.asarray(task.standardize(data.test.x[:2]))
    export_saved_model(served, folder / "saved_model", sample)
    if config.compress:
        stock.compile(loss=model.loss, metrics=["accuracy"])

        def accuracy(model: Any, split: Split) -> float:
            return evaluate(task, config, model, split)["accuracy"]

        compress_trained(task, config, data, stock, seed, accuracy, folder)
    return _summarize(task, config, model, method, seed, records, segments)


def _set_up_process(config: ExperimentConfig, seed: int) -> None:
    keras.utils.set_random_seed(seed)
    keras.mixed_precision.set_global_policy(config.mixed_precision)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def strategy_of(config: ExperimentConfig) -> Any:
    """Returns the tf.distribute strategy the configuration names."""
    return {
        "none": tf.distribute.get_strategy,
        "one_device": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
        "mirrored": tf.distribute.MirroredStrategy,
        "multi_worker": tf.distribute.MultiWorkerMirroredStrategy,
    }[config.distribution_strategy]()


def _build(
    task: Task, config: ExperimentConfig, data: Data, sampling: Sampling | None, seed: int
) -> Any:
    with strategy_of(config).scope():
        model = task.build(config, data)
        if sampling is not None:
            exclude = None if config.approximate_layers else task.exclude
            chosen = ApproximateTrainingConfig(
                sampling, include=config.approximate_layers, exclude=exclude, seed=seed
            )
            model, verdicts = approximate_training(model, chosen)
            for verdict in verdicts:
                logging.info("%s: %s", verdict.layer, verdict.reason or "sampled")
            if not sampled_layers(model):
                raise UserError(
                    f"no layer of {task.name} is sampled: choose others by --approximate_layers, "
                    "or widen the network"
                )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        steps = len(data.train) // config.batch_size
        optimizer = task.optimizer(config, steps)
        model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=config.jit_compile)
        optimizer.build(model.trainable_variables)
    return model


def _checkpoints(model: Any, folder: pathlib.Path, resume: bool) -> Checkpoints:
    try:
        return Checkpoints(model, folder, resume)
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"--resume: {folder} is of a training with other settings: give them "
            f"(--flagfile={folder.parent}/flags.txt), or another --model_dir"
        ) from error


class _Training:
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


def _summarize(
    task: Task,
    config: ExperimentConfig,
    model: Any,
    method: str,
    seed: int,
    records: list[Record],
    segments: list[Record],
) -> Result:
    sign = -1 if task.measure == "perplexity" else 1
    best = max(records, key=lambda record: sign * record[f"valid_{task.measure}"])
    timed = records[1:] or records
    steps = sum(record["steps"] for record in records)
    return Result(
        method,
        seed,
        records,
        [{name: segment[name] for name in ("steps", "train_loss")} for segment in segments],
        best[f"test_{task.measure}"],
        sum(record["compute_reduction"] * record["steps"] for record in records) / steps,
        float(np.median([record["seconds"] / record["steps"] for record in timed])),
        float(np.median([record["cpu_seconds"] / record["steps"] for record in timed])),
        kept_activation_bytes(model, config.batch_size),
    )


def _reset_states(model: Any) -> None:
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            (layer.reset_state if hasattr(layer, "reset_state") else layer.reset_states)()


def _line(record: dict[str, float], epochs: int) -> str:
    shown = ("train_loss", "valid_accuracy", "test_accuracy", "valid_perplexity", "test_perplexity")
    values = " ".join(f"{name} {record[name]:.4f}" for name in shown if name in record)
    left = (epochs - record["epoch"]) * record["seconds"]
    return f"epoch {record['epoch']}/{epochs} {values} {record['seconds']:.1f} s, {left:.0f} s left"
