"""How far a model's outputs are from another's, as a number to train on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.rewriters.agreement import is_floating

Outputs = Mapping[str, np.ndarray]

_SUM_TOLERANCE = 1e-2  # of probabilities in half precision
_LEAST_PROBABILITY = 1e-7


@dataclasses.dataclass(frozen=True)
class OutputLoss:
    """The loss of one output.

    Attributes:
      key: of the output.
      kind: "squares" is mean |y - t|^2 / scale; "divergence" is the mean Kullback-Leibler
        divergence KL(t || y) of the distributions along the last axis, in nats.
      scale: mean |t|^2 over the data, so that the root of "squares" is a relative error.
    """

    key: str
    kind: Literal["squares", "divergence"]
    scale: float

    def __call__(self, output: Any, target: Any) -> Any:
        """Returns the loss of a batch, a float32 scalar."""
        if self.kind == "divergence":
            y = tf.maximum(tf.cast(output, tf.float32), _LEAST_PROBABILITY)
            t = tf.maximum(tf.cast(target, tf.float32), _LEAST_PROBABILITY)
            return tf.reduce_mean(tf.reduce_sum(t * (tf.math.log(t) - tf.math.log(y)), -1))
        difference = tf.abs(_wide(output) - _wide(target))
        return tf.cast(tf.reduce_mean(tf.square(difference)), tf.float32) / self.scale


def choose_losses(targets: Sequence[Outputs]) -> tuple[OutputLoss, ...]:
    """Returns a loss for each output of real or complex numbers.

    Outputs that are distributions along their last axis (not negative, summing to one)
    are judged by their divergence: squared differences of probabilities hardly move a
    softmax that is sure of itself.

    Args:
      targets: the outputs to match, batch by batch.

    Raises:
      UserError: no output is of real numbers, or one has entries that are not finite.
    """
    losses = []
    for key in sorted(targets[0]):
        batches = [batch[key] for batch in targets]
        if not is_floating(batches[0]):
            continue
        wide = [b if b.dtype.kind == "c" else b.astype(np.float64) for b in batches]
        if not all(np.isfinite(batch).all() for batch in wide):
            raise UserError(
                f"output {key!r} of the original has entries that are not finite on the "
                "calibration data, so nothing can be trained to match it"
            )
        count = sum(batch.size for batch in wide)
        scale = sum(float(np.sum(np.abs(batch) ** 2)) for batch in wide) / max(1, count)
        kind: Any = "divergence" if all(map(_are_distributions, wide)) else "squares"
        losses.append(OutputLoss(key, kind, scale or 1.0))
    if not losses:
        raise UserError(
            f"no output of {sorted(targets[0])} holds real numbers, so nothing can be trained"
        )
    return tuple(losses)


def relative_error(key: str, outputs: Sequence[Outputs], targets: Sequence[Outputs]) -> float:
    """Returns ||y - t|| / ||t|| of one output over all batches."""
    pairs = [(_flat(y[key]), _flat(t[key])) for y, t in zip(outputs, targets, strict=True)]
    wrong = sum(float(np.sum(np.abs(y - t) ** 2)) for y, t in pairs)
    whole = sum(float(np.sum(np.abs(t) ** 2)) for _, t in pairs)
    return float(np.sqrt(wrong / (whole or 1.0)))


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _are_distributions(batch: np.ndarray) -> bool:
    if batch.ndim < 2 or batch.shape[-1] < 2 or batch.dtype.kind == "c":
        return False
    return bool(np.all(batch >= 0) and np.all(np.abs(batch.sum(-1) - 1) < _SUM_TOLERANCE))


def _wide(x: Any) -> Any:
    """Returns half precision as float32; squares of it would overflow."""
    x = tf.convert_to_tensor(x)
    return tf.cast(x, tf.float32) if x.dtype.size <= 2 else x
