"""A dense layer trained with sampled matrix products."""

import tensorflow as tf
from tensorflow import keras

from tfapprox.layers.column_row_sampled import ColumnRowSampled
from tfapprox.ops.approx_matmul import approx_matmul


@keras.utils.register_keras_serializable("tfapprox")
class CRSDense(ColumnRowSampled, keras.layers.Dense):
    """A Dense layer that samples its products in training, and is exact elsewhere.

    Takes inputs [..., n] of any rank; over [batch, time, units] it is the sampled
    output projection of a language model.

    Args: those of Dense, and `sampling`, `first_layer`, `seed` of `ColumnRowSampled`.

    References: Adelman and Silberstein, 2018, sections 3.3 and 3.4.
    """

    def sampled_product(
        self, inputs: tf.Tensor, kernel: tf.Tensor, seed: tf.Tensor | None
    ) -> tf.Tensor:
        return approx_matmul(inputs, kernel, self.sampling, seed, not self.first_layer)
