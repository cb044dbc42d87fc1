"""An einsum layer trained with sampled products, where the einsum is one matrix product."""

import math
from typing import Any

import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.column_row_sampled import ColumnRowSampled
from tfapprox.ops.approx_matmul import approx_matmul


@keras.utils.register_keras_serializable("tfapprox")
class CRSEinsumDense(ColumnRowSampled, keras.layers.EinsumDense):
    """An EinsumDense layer that samples its product in training, and is exact elsewhere.

    Args: those of EinsumDense, and `sampling`, `first_layer`, `seed` of
      `ColumnRowSampled`. The equation must contract the last axes of the input with
      the first axes of the kernel, as those of attention projections do.

    Raises:
      UserError: another kind of equation.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._contracted = contracted_axes(self.equation)

    def sampled_product(
        self, inputs: tf.Tensor, kernel: tf.Tensor, seed: tf.Tensor | None
    ) -> tf.Tensor:
        axes = self._contracted
        rows, columns = math.prod(kernel.shape[:axes]), math.prod(kernel.shape[axes:])
        lead = tf.shape(inputs)[:-axes]
        outputs = approx_matmul(
            tf.reshape(inputs, tf.concat([lead, [rows]], 0)),
            tf.reshape(kernel, [rows, columns]),
            self.sampling,
            seed,
            not self.first_layer,
        )
        shaped = tf.reshape(outputs, tf.concat([lead, kernel.shape[axes:]], 0))
        return tf.ensure_shape(shaped, [*inputs.shape[:-axes], *kernel.shape[axes:]])


def contracted_axes(equation: str) -> int:
    """Returns how many axes the equation contracts, if it is one matrix product.

    Raises:
      UserError: contracted axes do not stand last in the input and first in the
        kernel, or an axis is shared without being contracted.
    """
    left, _, output = equation.replace(" ", "").partition("->")
    inputs, _, kernel = left.partition(",")
    for axes in range(min(len(inputs), len(kernel)), 0, -1):
        if inputs[-axes:] == kernel[:axes] and output == inputs[:-axes] + kernel[axes:]:
            return axes
    raise UserError(
        f"equation {equation!r} does not contract the input's last axes with the kernel's first "
        "ones: keep this layer an EinsumDense"
    )
