"""Adam on plain TensorFlow variables, whose whole state can be read and set."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """The optimizer; Keras's takes variables of its own flavour alone.

    Works under a tf.distribute strategy in the context across replicas. Moments are
    float32 for variables of half precision.

    References: Kingma and Ba 2015, Algorithm 1.
    """

    def __init__(self, variables: Sequence[tf.Variable]):
        self._variables = list(variables)
        self._moments = [
            tuple(tf.Variable(tf.zeros(v.shape, _wide(v.dtype)), trainable=False) for _ in range(2))
            for v in variables
        ]

    def apply(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor, count: tf.Tensor) -> None:
        """Takes a step.

        Args:
          gradients: one for each variable.
          rate: learning rate; 0 leaves everything as it is, the moments too.
          count: of this step, from 1.
        """
        on = tf.cast(rate > 0, tf.float32)
        scale = rate * tf.sqrt(1 - _BETA2**count) / (1 - _BETA1**count)
        for variable, (first, second), gradient in zip(
            self._variables, self._moments, gradients, strict=True
        ):
            wide = first.dtype
            gradient = tf.where(on > 0, tf.cast(gradient, wide), tf.zeros([], wide))
            keep1, keep2 = (tf.cast(1 - on * (1 - beta), wide) for beta in (_BETA1, _BETA2))
            first.assign(keep1 * first + (1 - keep1) * gradient)
            second.assign(keep2 * second + (1 - keep2) * tf.square(gradient))
            step = tf.cast(scale, wide) * first / (tf.sqrt(second) + _EPSILON)
            variable.assign(tf.cast(tf.cast(variable, wide) - step, variable.dtype))

    def values(self) -> dict[str, np.ndarray]:
        """Returns the moments, by the place of their variable."""
        return {
            f"{place}/{number}": moment.numpy()
            for place, pair in enumerate(self._moments)
            for number, moment in enumerate(pair)
        }

    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Sets what `values` returned."""
        for place, pair in enumerate(self._moments):
            for number, moment in enumerate(pair):
                moment.assign(values[f"{place}/{number}"])


def _wide(dtype: tf.DType) -> tf.DType:
    return tf.float32 if dtype.size < 4 else dtype
