"""The multilayer perceptron 784-500-500-10."""

from collections.abc import Sequence

from tensorflow import keras


def mlp(
    widths: Sequence[int] = (500, 500), classes: int = 10, input_shape: tuple[int, ...] = (28, 28)
) -> keras.Model:
    """Returns a ReLU perceptron over flattened inputs that ends in logits.

    The layers are called dense1, dense2, ..., logits.

    Args:
      widths: units of the hidden layers.
      classes: number of logits.
      input_shape: of one example; flattened to 784 for MNIST.

    References:
      Adelman and Silberstein 2018, section 3.3 and "MLP for MNIST" (784-500-500-10).
    """
    inputs = keras.Input(input_shape)
    x = keras.layers.Flatten()(inputs)
    for index, units in enumerate(widths, 1):
        x = keras.layers.Dense(units, activation="relu", name=f"dense{index}")(x)
    outputs = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="mlp")
