"""A callback that shows sampled training in TensorBoard: ratios, and which channels learn."""

from os import PathLike
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.report.tensorboard import summary_writer
from tfapprox.training.sampling_schedules import sampled_layers


class SamplingBoard(keras.callbacks.Callback):
    """Writes, after each epoch and for each sampled layer, what is sampled of it.

    Scalars: the forward and backward ratios in force. With a batch to look at, also the
    share of input channels whose kernel rows get a gradient, and a histogram of them: a
    histogram that stays in one place shows channels that are never chosen. In mode
    "nested" these are the kept channels; other modes give all of them a gradient.

    Looking draws once and then puts every variable back that training would have moved, so
    a training with this callback is the same as one without.

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
                for layer, kept in zip(layers, self._learning_channels(layers), strict=True):
                    tf.summary.histogram(f"kept_channels/{layer.name}", np.flatnonzero(kept))
                    tf.summary.scalar(f"kept_share/{layer.name}", kept.mean())
        self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()

    def _learning_channels(self, layers: list[Any]) -> list[np.ndarray]:
        """Returns, for each layer, which input channels' kernel rows get a gradient, bool [n]."""
        x, y = self._batch
        model = self.model
        moved = [v for v in model.variables if not v.trainable]  # statistics, draws, seeds
        before = [tf.identity(v) for v in moved]
        kernels = [_raw(layer.kernel) for layer in layers]
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        gradients = tape.gradient(loss, kernels)
        for variable, value in zip(moved, before, strict=True):
            variable.assign(value)
        return [_any_by_channel(tf.convert_to_tensor(g).numpy()) for g in gradients]


def _any_by_channel(gradient: np.ndarray) -> np.ndarray:
    """Returns bool [n] for kernels [n, p] and [h, w, n, p]."""
    others = tuple(axis for axis in range(gradient.ndim) if axis != gradient.ndim - 2)
    return np.any(gradient != 0, axis=others)


def _raw(variable: Any) -> tf.Variable:
    # A Keras 3 variable wraps TensorFlow's.
    return variable if isinstance(variable, tf.Variable) else variable.value
