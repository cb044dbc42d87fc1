"""What every column-row-sampled layer shares: settings, seeds, exact evaluation."""

import zlib
from typing import Any

import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.sampling.settings import Sampling

# Keras 3 names the aggregation of a counter, tf_keras takes TensorFlow's enumeration.
_FIRST_REPLICA = (
    "only_first_replica" if hasattr(keras, "ops") else tf.VariableAggregation.ONLY_FIRST_REPLICA
)

# The stock layer that follows in the method resolution order.
_Stock: Any = object


class ColumnRowSampled(_Stock):
    """Mixin in front of a stock Keras layer with `kernel`, `bias` and `activation`.

    In training the layer's product is sampled as `sampling` says; otherwise the
    stock layer runs unchanged. Variables are the stock layer's own, plus a counter
    of draws when the choice is random, so that a restored model goes on with fresh
    draws. `sampling` may be assigned between steps; a compiled train step has to be
    traced again to see it (see `training.sampling_schedules`).

    Attributes:
      sampling: see `Sampling`.
      first_layer: whether nothing before the layer learns, so that no dX is needed.
      seed: of the draws; layers with different names draw differently.
    """

    def __init__(
        self,
        *args: Any,
        sampling: Sampling | dict | None = None,
        first_layer: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.sampling = (
            Sampling(**sampling) if isinstance(sampling, dict) else sampling or Sampling()
        )
        self.first_layer = first_layer
        self.seed = seed
        self.draws = None

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if self.sampling.random:
            self.draws = self.add_weight(
                name="draws",
                shape=(),
                dtype="int32",
                initializer="zeros",
                trainable=False,
                aggregation=_FIRST_REPLICA,
            )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training or self.sampling.exact:
            return super().call(inputs)
        kernel = tf.convert_to_tensor(self.kernel)
        outputs = self.sampled_product(tf.cast(inputs, kernel.dtype), kernel, self._next_seed())
        if self.bias is not None:
            outputs += tf.cast(self.bias, outputs.dtype)
        return outputs if self.activation is None else self.activation(outputs)

    def sampled_product(
        self, inputs: tf.Tensor, kernel: tf.Tensor, seed: tf.Tensor | None
    ) -> tf.Tensor:
        """Returns the layer's linear part from a sample."""
        raise NotImplementedError

    def get_config(self) -> dict:
        own = {
            "sampling": self.sampling.to_json(),
            "first_layer": self.first_layer,
            "seed": self.seed,
        }
        return {**super().get_config(), **own}

    def save_own_variables(self, store: Any) -> None:
        # Dense and its kind store kernel and bias only; the plain rule stores all.
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        keras.layers.Layer.load_own_variables(self, store)

    def _next_seed(self) -> tf.Tensor | None:
        if not self.sampling.random:
            return None
        if self.draws is None:
            raise UserError(
                f"layer {self.name} was built for top-k, which needs no seed: give it sampling "
                f"{self.sampling.variant!r} before it is built"
            )
        # Replicas must not repeat each other's draws.
        context = tf.distribute.get_replica_context()
        replica = 0 if context is None else context.replica_id_in_sync_group
        own = (self.seed * 1_000_003 + zlib.crc32(self.name.encode())) % 2**31
        seed = tf.stack([tf.constant(own, tf.int32), tf.convert_to_tensor(self.draws)])
        self.draws.assign_add(1)
        return tf.random.experimental.stateless_fold_in(seed, tf.cast(replica, tf.int32))
