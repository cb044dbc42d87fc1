"""The state of a training run on disk."""

import pathlib
from typing import Any

import tensorflow as tf
from absl import logging


class Checkpoints:
    """Weights, optimizer, draw counters, dropout seeds and epoch of a run.

    Args:
      model: compiled, its optimizer built.
      folder: gets the last two checkpoints.
      resume: restore the latest one, if there is any.
    """

    def __init__(self, model: Any, folder: pathlib.Path, resume: bool):
        optimizer = model.optimizer.variables
        optimizer = optimizer() if callable(optimizer) else optimizer
        self._epoch = tf.Variable(0, dtype=tf.int64)
        checkpoint = tf.train.Checkpoint(
            model=[_raw(v) for v in model.variables],
            optimizer=[_raw(v) for v in optimizer],
            epoch=self._epoch,
        )
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
        if resume and self._manager.latest_checkpoint:
            status = checkpoint.restore(self._manager.latest_checkpoint)
            status.assert_existing_objects_matched()
            logging.info("resumed after epoch %d", self.epoch)

    @property
    def epoch(self) -> int:
        return int(self._epoch.numpy())

    def save(self, epoch: int) -> None:
        self._epoch.assign(epoch)
        self._manager.save(checkpoint_number=epoch)


def _raw(variable: Any) -> tf.Variable:
    # A Keras 3 variable wraps TensorFlow's.
    return variable if isinstance(variable, tf.Variable) else variable.value
