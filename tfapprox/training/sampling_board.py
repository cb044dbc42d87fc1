"""A callback that shows sampled training in TensorBoard: ratios, and which channels learn."""

from os import PathLike
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.report.tensorboard import summary_writer
from tfapprox.training.keep_shares import kept_channels
from tfapprox.training.sampling_schedules import sampled_layers


class SamplingBoard(keras.callbacks.Callback):
    """Writes, after each epoch and for each sampled layer, what is sampled of it.

    Scalars: the forward and backward ratios in force. With a batch to look at, also the
    share of input channels that the forward product keeps of it, and a histogram of them: a
    histogram that stays in one place shows channels that are never chosen.

    Looking draws once and then puts everything back that training would have moved, so a
    training with this callback is the same as one without.

    Args:
      log_dir: of event files.
      batch: (x, y) of a size that the model was trained with.

    Raises:
      UserError: TensorBoard is not installed, or the model has no sampled layer.
    """

    def __init__(self, log_dir: str | PathLike[str], batch: Any = None):
        super().__init__()
        self._writer, self._batch = summary_writer(log_dir), batch

    def on_train_begin(self, logs: Any = None) -> None:
        if not sampled_layers(self.model):
            raise UserError(f"model {self.model.name!r} has no sampled layer to show")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        layers = sampled_layers(self.model)
        with self._writer.as_default(step=epoch + 1):
            for layer in layers:
                tf.summary.scalar(f"forward_ratio/{layer.name}", layer.sampling.forward_ratio)
                tf.summary.scalar(f"backward_ratio/{layer.name}", layer.sampling.backward_ratio)
            if self._batch is not None:
                for layer, kept in zip(
                    layers, kept_channels(self.model, *self._batch), strict=True
                ):
                    tf.summary.histogram(f"kept_channels/{layer.name}", np.flatnonzero(kept))
                    tf.summary.scalar(f"kept_share/{layer.name}", kept.mean())
        self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()
