"""Trains one model of an experiment: checkpoints, exact resumption, metrics, export."""

import contextlib
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow import keras

from experiments.checkpoints import Checkpoints
from experiments.config import ExperimentConfig
from experiments.datasets import Data, Split
from experiments.export import export_saved_model
from experiments.memory import peak_memory, reset_peak_memory
from experiments.task import Task
from tfapprox.rewriters.approximate_training import (
    ApproximateTrainingConfig,
    approximate_training,
    strip,
)
from tfapprox.rewriters.model_compute import kept_activation_bytes, model_compute_reduction
from tfapprox.sampling.settings import Sampling
from tfapprox.training.recalibration import recalibrate_batch_norm
from tfapprox.training.sampling_schedules import sampled_layers

# Exact forward passes after each epoch, for the statistics of batch normalization.
_RECALIBRATION_BATCHES = 20


@dataclasses.dataclass(frozen=True)
class Result:
    """What one training gave.

    Attributes:
      method, seed: which training.
      history: one record an epoch, as in metrics.jsonl.
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

    After each epoch a checkpoint holds weights, optimizer, draw counters and dropout
    seeds; the order of examples follows from seed and epoch. So a run that was
    killed goes on, with config.resume, exactly as it would have.

    Raises:
      UserError: data are missing, or settings do not fit the model.
    """
    data = task.load(config)
    _set_up_process(config, seed)
    model = _build(task, config, data, config.sampling_of(method), seed)
    state = Checkpoints(model, folder / "checkpoints", config.resume)
    records = _read_metrics(folder / "metrics.jsonl", state.epoch)
    steps = len(data.train) // config.batch_size
    epochs = math.ceil(config.steps / steps) if config.steps else config.epochs
    with _metrics_file(folder / "metrics.jsonl", records) as write, _tensorboard(folder) as board:
        for epoch in range(state.epoch, epochs):
            last = min(steps, config.steps - epoch * steps) if config.steps else steps
            record = _run_epoch(task, config, data, model, seed, epoch, last)
            records.append(record)
            write(record)
            board(record)
            state.save(epoch + 1)
            logging.info("%s seed %d %s", method, seed, _line(record, epochs))
    stock = strip(model) if config.sampling_of(method) else model
    served = task.serving_model(config, data, stock) if task.serving_model else stock
    sample = np.asarray(task.standardize(data.test.x[:2]))
    export_saved_model(served, folder / "saved_model", sample)
    return _summarize(task, config, model, method, seed, records)


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
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        steps = len(data.train) // config.batch_size
        optimizer = task.optimizer(config, steps)
        model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=config.jit_compile)
        optimizer.build(model.trainable_variables)
    return model


def _run_epoch(
    task: Task,
    config: ExperimentConfig,
    data: Data,
    model: Any,
    seed: int,
    epoch: int,
    steps: int,
) -> dict[str, float]:
    _reset_states(model)
    reset_peak_memory()
    start, cpu_start = time.perf_counter(), time.process_time()
    dataset = training_batches(task, data, config.batch_size, seed, epoch).take(steps)
    # The dataset comes in its order; Keras warns when asked to shuffle one.
    fitted = model.fit(dataset, epochs=epoch + 1, initial_epoch=epoch, verbose=0, shuffle=False)
    history = fitted.history
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    record: dict[str, float] = {
        "epoch": epoch + 1,
        "steps": steps,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_memory_mib": peak_memory(),
        **{f"train_{k}": float(v[0]) for k, v in history.items()},
    }
    if sampled_layers(model):
        inputs = dataset.map(lambda x, y: x).take(_RECALIBRATION_BATCHES)
        recalibrate_batch_norm(model, inputs)
    for name, split in (("valid", data.valid), ("test", data.test)):
        record |= {f"{name}_{k}": v for k, v in evaluate(task, config, model, split).items()}
    return record


def training_batches(
    task: Task, data: Data, batch_size: int, seed: int, epoch: int
) -> tf.data.Dataset:
    """Returns one epoch of batches of equal size, in an order set by seed and epoch."""
    train = data.train
    order = np.arange(len(train))
    if data.shuffle:
        order = np.random.default_rng([seed, epoch]).permutation(order)
    x, y = tf.constant(train.x), tf.constant(train.y)
    prepare = task.prepare or (lambda x, seed: x)

    def fetch(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seeds = tf.stack([indices[0], tf.constant(seed * 1000 + epoch, indices.dtype)])
        return task.standardize(prepare(tf.gather(x, indices), seeds)), tf.gather(y, indices)

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
    records: list[dict[str, float]],
) -> Result:
    sign = -1 if task.measure == "perplexity" else 1
    best = max(records, key=lambda record: sign * record[f"valid_{task.measure}"])
    timed = records[1:] or records
    sizes = (model, config.batch_size)
    return Result(
        method,
        seed,
        records,
        best[f"test_{task.measure}"],
        model_compute_reduction(*sizes),
        float(np.median([record["seconds"] / record["steps"] for record in timed])),
        float(np.median([record["cpu_seconds"] / record["steps"] for record in timed])),
        kept_activation_bytes(*sizes),
    )


def _reset_states(model: Any) -> None:
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            (layer.reset_state if hasattr(layer, "reset_state") else layer.reset_states)()


def _read_metrics(path: pathlib.Path, epochs: int) -> list[dict[str, float]]:
    """Returns the records up to the checkpoint; later ones will be written anew."""
    if not epochs:
        return []
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for record in map(json.loads, lines) if record["epoch"] <= epochs]


@contextlib.contextmanager
def _metrics_file(path: pathlib.Path, records: list[dict[str, float]]) -> Iterator[Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:

        def write(record: dict[str, float]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        for record in records:
            write(record)
        yield write


@contextlib.contextmanager
def _tensorboard(folder: pathlib.Path) -> Iterator[Any]:
    """Yields what writes a record for TensorBoard, or does nothing where it is not installed."""
    try:
        import tensorboard  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        yield lambda record: None
        return
    writer = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def write(record: dict[str, float]) -> None:
        with writer.as_default(step=int(record["epoch"])):
            for name, value in record.items():
                tf.summary.scalar(name, value)
        writer.flush()

    yield write
    writer.close()


def _line(record: dict[str, float], epochs: int) -> str:
    shown = ("train_loss", "valid_accuracy", "test_accuracy", "valid_perplexity", "test_perplexity")
    values = " ".join(f"{name} {record[name]:.4f}" for name in shown if name in record)
    left = (epochs - record["epoch"]) * record["seconds"]
    return f"epoch {record['epoch']}/{epochs} {values} {record['seconds']:.1f} s, {left:.0f} s left"
