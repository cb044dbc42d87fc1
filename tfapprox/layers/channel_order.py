"""A layer that puts channels into another order, for which Keras has none."""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf


@functools.cache
def channel_order_layer(keras: ModuleType) -> type:
    """Returns the layer class ChannelOrder of a flavour, keras or tf_keras.

    It computes activation(take(x, order) + bias), and stands where clustered channels
    become blocks of a grouped stage, and where they are put back at its end. It is
    registered, so that models which hold it can be saved and loaded by whoever has
    called this function.
    """

    @keras.utils.register_keras_serializable("tfapprox")
    class ChannelOrder(keras.layers.Layer):  # type: ignore[name-defined]
        """Reorders the channels; then bias and activation, like a Dense or Conv layer.

        Args:
          order: output channel o is input channel order[o].
          axis: of the channels.
          use_bias, activation and others: as in Dense.
        """

        def __init__(
            self,
            order: Sequence[int],
            axis: int = -1,
            use_bias: bool = False,
            activation: Any = None,
            bias_regularizer: Any = None,
            bias_constraint: Any = None,
            **others: Any,
        ):
            super().__init__(**others)
            self.order = [int(channel) for channel in order]
            self.axis, self.use_bias = axis, use_bias
            self.activation = keras.activations.get(activation)
            self.bias_regularizer = keras.regularizers.get(bias_regularizer)
            self.bias_constraint = keras.constraints.get(bias_constraint)
            self.bias = None

        def build(self, input_shape: Any) -> None:
            if self.use_bias:
                self.bias = self.add_weight(
                    name="bias",
                    shape=(len(self.order),),
                    initializer="zeros",
                    regularizer=self.bias_regularizer,
                    constraint=self.bias_constraint,
                )
            self.built = True

        def call(self, inputs: Any) -> Any:
            outputs = tf.gather(inputs, np.array(self.order, np.int32), axis=self.axis)
            if self.bias is not None:
                shape = [1] * len(inputs.shape)
                shape[self.axis] = len(self.order)
                bias = tf.cast(tf.convert_to_tensor(self.bias), outputs.dtype)
                outputs = outputs + tf.reshape(bias, shape)
            return self.activation(outputs)

        def compute_output_shape(self, input_shape: Any) -> Any:
            return input_shape

        def get_config(self) -> dict[str, Any]:
            return super().get_config() | {
                "order": self.order,
                "axis": self.axis,
                "use_bias": self.use_bias,
                "activation": keras.activations.serialize(self.activation),
                "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
                "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            }

    return ChannelOrder
