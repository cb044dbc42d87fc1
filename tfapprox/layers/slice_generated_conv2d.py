"""A convolution whose kernel is made of slices from a shared generator."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from tfapprox.decompositions.slice_generator import SliceShape
from tfapprox.layers.graph_memo import once_in_graph
from tfapprox.ops.slice_generation import generate_kernel


@keras.utils.register_keras_serializable("tfapprox")
class SliceGeneratedConv2D(keras.layers.Layer):
    """Convolves with a kernel generated from this layer's codes and given slices.

    Called on [inputs, slices]: inputs [N, H, W, C] and the output of a
    `SliceGenerator`. The layer owns the codes only, S x n_c for S = the number of
    slices that cover the kernel; the last slices of each axis are cropped where the
    slice shape does not divide it. The kernel is generated once in a training step,
    however often the model calls the layer.

    Args:
      filters: output channels.
      kernel_size: one number or (height, width).
      strides: one number or a pair.
      padding: "same" or "valid".
      dilation_rate: one number or a pair.
      activation: as in keras.layers.Conv2D.
      use_bias: whether to add a bias; off as in the paper, where normalisation follows.
      offset: the last basis slice is added to every slice; there are no codes for it
        (a generator with bias, see `HyperSliceGenerator`).
      codes_initializer: by default normal with variance 2 / fan-in, which gives the
        generated kernel He scale; the paper's code draws standard normal codes,
        "random_normal" and leaves the scale to the normalisation.
      codes_regularizer: acts on the codes.

    References:
      Omidvar et al. 2021, section 3.1.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: str = "valid",
        dilation_rate: int | tuple[int, int] = 1,
        activation: Any = None,
        use_bias: bool = False,
        offset: bool = False,
        codes_initializer: Any = None,
        codes_regularizer: Any = None,
        **options: Any,
    ):
        super().__init__(**options)
        if padding.lower() not in ("same", "valid"):
            raise ValueError(f"{self.name}: padding must be same or valid, got {padding!r}")
        self.filters = int(filters)
        self.kernel_size = _pair(kernel_size)
        self.strides = _pair(strides)
        self.padding = padding.lower()
        self.dilation_rate = _pair(dilation_rate)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.offset = offset
        self.codes_initializer = codes_initializer and keras.initializers.get(codes_initializer)
        self.codes_regularizer = keras.regularizers.get(codes_regularizer)

    def build(self, input_shape: Any) -> None:
        inputs, slices = (tuple(shape) for shape in input_shape)
        code_size, height, width, in_channels, out_channels = slices
        slice_shape = SliceShape(out_channels, in_channels, height, width)
        self.kernel_shape = (*self.kernel_size, int(inputs[-1]), self.filters)
        fan_in = self.kernel_shape[0] * self.kernel_shape[1] * self.kernel_shape[2]
        he_normal = keras.initializers.RandomNormal(stddev=(2 / fan_in) ** 0.5)
        self.codes = self.add_weight(
            name="codes",
            shape=(slice_shape.count(self.kernel_shape), code_size - self.offset),
            initializer=self.codes_initializer or he_normal,
            regularizer=self.codes_regularizer,
            trainable=True,
        )
        self.bias = (
            self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
            if self.use_bias
            else None
        )
        super().build(input_shape)

    def generated_kernel(self, slices: tf.Tensor) -> tf.Tensor:
        """Returns the kernel [H, W, I, O] for these slices, once in a graph."""
        return once_in_graph(self, self.codes, slices, lambda: self._generate(slices))

    def _generate(self, slices: tf.Tensor) -> tf.Tensor:
        # Outside of a call nothing has cast the codes to the layer's compute type.
        codes = tf.cast(self.codes, slices.dtype)
        if self.offset:
            codes = tf.concat([codes, tf.ones_like(codes[:, :1])], axis=1)
        return generate_kernel(codes, slices, self.kernel_shape)

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        x, slices = inputs
        return self.apply_kernel(x, self.generated_kernel(slices))

    def apply_kernel(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the layer's output for a kernel [H, W, I, O] made elsewhere."""
        outputs = self._convolve(x, kernel)
        if self.bias is not None:
            outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(self.bias))
        return self.activation(outputs)

    def _convolve(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.convolution(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding.upper(),
            dilations=self.dilation_rate,
        )

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch, *sizes, _ = tuple(input_shape[0])
        lengths = [self._output_length(axis, size) for axis, size in enumerate(sizes)]
        return (batch, *lengths, self.filters)

    def _output_length(self, axis: int, size: int | None) -> int | None:
        if size is None:
            return None
        if self.padding == "valid":
            size -= (self.kernel_size[axis] - 1) * self.dilation_rate[axis]
        return -(-size // self.strides[axis])

    def get_config(self) -> dict[str, Any]:
        initializer = self.codes_initializer and keras.initializers.serialize(
            self.codes_initializer
        )
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": list(self.kernel_size),
            "strides": list(self.strides),
            "padding": self.padding,
            "dilation_rate": list(self.dilation_rate),
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "offset": self.offset,
            "codes_initializer": initializer,
            "codes_regularizer": keras.regularizers.serialize(self.codes_regularizer),
        }


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)
