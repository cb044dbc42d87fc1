"""The convolutional slice generator: one matrix that all chosen convolutions share."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from tfapprox.decompositions.slice_generator import SliceShape, check_code_size


@keras.utils.register_keras_serializable("tfapprox")
class SliceGenerator(keras.layers.Layer):
    """Returns the basis slices [code size, height, width, in, out].

    The layer is called on any tensor of the model, whose value it ignores, and its
    output goes into `SliceGeneratedConv2D` layers: sharing is wiring, so whatever
    copies, saves or loads a model keeps one generator.

        slices = SliceGenerator((16, 16, 3, 3), 128)(images)
        x = SliceGeneratedConv2D(64, 3, padding="same")([x, slices])

    Entries have variance 1 / code size, so that slices made of unit-variance codes have
    unit variance too. A binary generator keeps random signs, 1 byte each, and never
    trains. Freeze an ordinary one, e.g. a pre-trained one, by `trainable = False`.

    Args:
      slice_shape: out, in, height, width of a slice, in the order of the paper.
      code_size: n_c, length of a code.
      binary: keep signs of a normal draw, scaled (BCSG).
      initializer: of the entries; by default normal with variance 1 / code size. The
        paper's generator starts as a linear layer: "he_uniform" and the like.
      seed: of the default draw.

    References:
      Omidvar et al. 2021, section 3.1; our signs carry a factor code_size ** -0.5,
      which the paper leaves to the codes.
    """

    def __init__(
        self,
        slice_shape: tuple[int, int, int, int],
        code_size: int,
        binary: bool = False,
        initializer: Any = None,
        seed: int | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        self.slice_shape = tuple(int(size) for size in slice_shape)
        self._shape = SliceShape(*self.slice_shape)
        check_code_size(code_size, self._shape)
        self.code_size = code_size
        self.binary = binary
        self.initializer = initializer and keras.initializers.get(initializer)
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        matrix = (self.code_size, self._shape.size)
        normal = keras.initializers.RandomNormal(stddev=self.code_size**-0.5, seed=self.seed)
        initializer = self.initializer or normal
        if self.binary:
            # Signs of whatever the initializer draws, as in the paper.
            self.generator = self.add_weight(
                name="signs",
                shape=matrix,
                dtype="int8",
                initializer=lambda shape, dtype=None: _signs(initializer(shape)),
                trainable=False,
            )
        else:
            self.generator = self.add_weight(
                name="generator", shape=matrix, initializer=initializer, trainable=True
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        slices = tf.convert_to_tensor(self.generator)
        if self.binary:
            slices = tf.cast(slices, self.compute_dtype) * self.code_size**-0.5
        return tf.reshape(slices, (self.code_size, *self._shape.hwio))

    def compute_output_shape(self, input_shape: Any) -> tuple[int, ...]:
        return (self.code_size, *self._shape.hwio)

    def get_config(self) -> dict[str, Any]:
        initializer = self.initializer and keras.initializers.serialize(self.initializer)
        return {
            **super().get_config(),
            "slice_shape": list(self.slice_shape),
            "code_size": self.code_size,
            "binary": self.binary,
            "initializer": initializer,
            "seed": self.seed,
        }


def _signs(draw: tf.Tensor) -> tf.Tensor:
    return tf.where(
        tf.convert_to_tensor(draw) < 0, tf.constant(-1, tf.int8), tf.constant(1, tf.int8)
    )
