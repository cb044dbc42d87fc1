"""A stock Conv2D in groups, but for how it is computed."""

from typing import Any

import keras

from tfapprox.ops.approx_conv2d import Placement
from tfapprox.ops.grouped_conv2d import grouped_conv2d


@keras.saving.register_keras_serializable("tfapprox")
class GroupedConv2D(keras.layers.Conv2D):
    """A Conv2D of Keras 3 whose groups run as TensorFlow's operation, gradients too.

    Weights, configuration and results are those of `keras.layers.Conv2D`, and one can
    be made of the other's config. The stock layer compiles groups with XLA, which on
    CPUs takes minutes where this takes seconds, and leaves that in what is exported.
    Channels first, which that operation does not do on CPUs, go the stock layer's way.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        if self.groups == 1 or self.data_format != "channels_last":
            return super().convolution_op(inputs, kernel)
        placement = Placement(tuple(self.strides), self.padding.upper(), tuple(self.dilation_rate))
        kernel = keras.ops.cast(keras.ops.convert_to_tensor(kernel), inputs.dtype)
        return grouped_conv2d(inputs, kernel, self.groups, placement)
