"""The state of a training run on disk."""

import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import logging


class Checkpoints:
    """Weights, optimizer, draw counters, seeds, recurrent states and the place in the data.

    Args:
      model: compiled, its optimizer built.
      folder: gets the last two checkpoints.
      resume: restore the latest one, if there is any.

    Attributes:
      epoch: finished epochs.
      step: finished steps of the next one.
    """

    def __init__(self, model: Any, folder: pathlib.Path, resume: bool):
        optimizer = model.optimizer.variables
        optimizer = optimizer() if callable(optimizer) else optimizer
        self._epoch = tf.Variable(0, dtype=tf.int64)
        self._step = tf.Variable(0, dtype=tf.int64)
        checkpoint = tf.train.Checkpoint(
            model=[_raw(v) for v in model.variables],
            optimizer=[_raw(v) for v in optimizer],
            states=[_raw(v) for v in _recurrent_states(model)],
            epoch=self._epoch,
            step=self._step,
        )
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
        if resume and self._manager.latest_checkpoint:
            status = checkpoint.restore(self._manager.latest_checkpoint)
            status.assert_existing_objects_matched()
            logging.info("resumed after epoch %d and %d steps", self.epoch, self.step)

    @property
    def epoch(self) -> int:
        return int(self._epoch.numpy())

    @property
    def step(self) -> int:
        return int(self._step.numpy())

    def save(self, epoch: int, step: int = 0) -> None:
        self._epoch.assign(epoch)
        self._step.assign(step)
        self._manager.save()


def _recurrent_states(model: Any) -> Iterator[Any]:
    # Keras 3 doesn't count them among a model's variables.
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            yield from tf.nest.flatten(layer.states)


def _raw(variable: Any) -> tf.Variable:
    # A Keras 3 variable wraps TensorFlow's.
    return variable if isinstance(variable, tf.Variable) else variable.value
