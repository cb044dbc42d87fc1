"""Group convolution over the rotations by 90 degrees (p4)."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

ROTATIONS = 4


@keras.utils.register_keras_serializable("tfapprox")
class P4Conv2D(keras.layers.Layer):
    """Convolves feature maps over p4 = translations and quarter turns.

    Channels are read as [maps, 4 orientations]. One quarter of the kernel of a plain
    convolution is stored; output orientation r applies it rotated by r quarter turns,
    with the input orientations shifted by r. Rotating the input and shifting its
    orientations thus rotates and shifts the output.

    Args:
      filters: output channels, maps times 4.
      kernel_size: height and width.
      strides, padding: as in keras.layers.Conv2D.
      use_bias: one bias for each map, shared by its orientations.

    References:
      Cohen and Welling 2016, section 5.2 (eq. 11, filters p4 -> p4).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int | tuple[int, int] = 1,
        padding: str = "same",
        use_bias: bool = True,
        **options: Any,
    ):
        super().__init__(**options)
        if filters % ROTATIONS:
            raise ValueError(f"{self.name}: filters must be a multiple of 4, got {filters}")
        self.filters, self.kernel_size, self.padding = filters, kernel_size, padding
        self.strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
        self.use_bias = use_bias

    def build(self, input_shape: Any) -> None:
        channels = int(input_shape[-1])
        if channels % ROTATIONS:
            raise ValueError(f"{self.name}: input channels must be a multiple of 4, got {channels}")
        size, maps = self.kernel_size, self.filters // ROTATIONS
        shape = (size, size, channels // ROTATIONS, ROTATIONS, maps)
        variance = 2 / (size * size * channels)
        self.kernel = self.add_weight(
            name="kernel",
            shape=shape,
            initializer=keras.initializers.RandomNormal(stddev=variance**0.5),
        )
        self.bias = (
            self.add_weight(name="bias", shape=(maps,), initializer="zeros")
            if self.use_bias
            else None
        )
        super().build(input_shape)

    def full_kernel(self) -> tf.Tensor:
        """Returns the plain kernel [H, W, I, O] with all rotations written out."""
        kernel = tf.convert_to_tensor(self.kernel)
        turned = []
        for turns in range(ROTATIONS):
            turned.append(tf.roll(kernel, turns, axis=3))
            kernel = tf.reverse(tf.transpose(kernel, [1, 0, 2, 3, 4]), axis=[0])  # a quarter turn
        height, width, maps_in, _, maps = kernel.shape
        stacked = tf.stack(turned, axis=-1)
        return tf.reshape(stacked, [height, width, maps_in * ROTATIONS, maps * ROTATIONS])

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = tf.nn.convolution(inputs, self.full_kernel(), self.strides, self.padding.upper())
        if self.bias is None:
            return outputs
        return tf.nn.bias_add(outputs, tf.repeat(tf.convert_to_tensor(self.bias), ROTATIONS))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch, *sizes, _ = tuple(input_shape)
        lost = 0 if self.padding == "same" else self.kernel_size - 1
        lengths = [
            size and -(-(size - lost) // stride)
            for size, stride in zip(sizes, self.strides, strict=True)
        ]
        return (batch, *lengths, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": list(self.strides),
            "padding": self.padding,
            "use_bias": self.use_bias,
        }
