"""The two-layer linear hypernetwork of Ha et al., as a generator of slices."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from tfapprox.decompositions.slice_generator import SliceShape


@keras.utils.register_keras_serializable("tfapprox")
class HyperSliceGenerator(keras.layers.Layer):
    """Returns basis slices [code size + 1, height, width, in, out], the last an offset.

    A slice is W2 (W1 z + b1) + b2 for its embedding z. There is no nonlinearity in
    between, so the product W2 W1 is formed once and z takes the role of a code:
    the output goes into `SliceGeneratedConv2D(..., offset=True)`.

    Args:
      slice_shape: out, in, height, width of a slice.
      code_size: length of an embedding, and width of the hidden layer.

    References:
      Ha, Dai and Le 2017, section 3.1, as sized by Omidvar et al. 2021, table 4
      (64 -> 64 -> 2304, both with biases).
    """

    def __init__(
        self,
        slice_shape: tuple[int, int, int, int] = (16, 16, 3, 3),
        code_size: int = 64,
        **options: Any,
    ):
        super().__init__(**options)
        self.slice_shape = tuple(int(size) for size in slice_shape)
        self._shape = SliceShape(*self.slice_shape)
        self.code_size = code_size

    def build(self, input_shape: Any) -> None:
        normal = keras.initializers.RandomNormal(stddev=self.code_size**-0.5)
        size, code = self._shape.size, self.code_size
        self.hidden_kernel = self.add_weight(
            name="hidden_kernel", shape=(code, code), initializer=normal
        )
        self.hidden_bias = self.add_weight(name="hidden_bias", shape=(code,), initializer="zeros")
        self.kernel = self.add_weight(name="kernel", shape=(code, size), initializer=normal)
        self.bias = self.add_weight(name="bias", shape=(size,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        hidden_bias = tf.convert_to_tensor(self.hidden_bias)[None]
        rows = tf.matmul(tf.convert_to_tensor(self.hidden_kernel), kernel)
        offset = tf.matmul(hidden_bias, kernel) + tf.convert_to_tensor(self.bias)
        return tf.reshape(tf.concat([rows, offset], 0), self.compute_output_shape(None))

    def compute_output_shape(self, input_shape: Any) -> tuple[int, ...]:
        return (self.code_size + 1, *self._shape.hwio)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "slice_shape": list(self.slice_shape),
            "code_size": self.code_size,
        }
