"""Trains one model of an experiment by one method: builds, trains, exports, sums up."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow import keras

from experiments.compress_trained import compress_trained
from experiments.config import ExperimentConfig
from experiments.datasets import Data, Split
from experiments.export import export_saved_model
from experiments.resumable_training import ResumableTraining, evaluate
from experiments.task import Task
from experiments.training_log import Record
from tfapprox.errors import UserError
from tfapprox.rewriters.approximate_training import (
    ApproximateTrainingConfig,
    approximate_training,
    strip,
)
from tfapprox.rewriters.model_compute import kept_activation_bytes
from tfapprox.sampling.settings import Sampling
from tfapprox.training.sampling_schedules import sampled_layers


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
    training = ResumableTraining(task, config, data, model, method, seed, folder)
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
