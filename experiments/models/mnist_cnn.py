"""The two-convolution network for MNIST."""

from collections.abc import Sequence

from tensorflow import keras


def mnist_cnn(
    filters: Sequence[int] = (32, 64),
    units: int = 1024,
    dropout: float = 0.5,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (28, 28, 1),
) -> keras.Model:
    """Returns 5x5 convolutions with pooling, a hidden layer and logits.

    For 28x28 images: 5x5x32, pool, 5x5x64, pool, 3136 -> 1024, dropout, -> 10.
    The layers are called conv1, conv2, dense1, logits.

    Args:
      filters: output channels of the convolutions, each followed by a 2x2 max pool.
      units: width of the hidden layer.
      dropout: share of hidden units dropped in training.
      classes: number of logits.
      input_shape: [height, width, channels] of one image.

    References:
      Adelman and Silberstein 2018, section 4.1 and "CNN for MNIST".
    """
    layers = keras.layers
    inputs = x = keras.Input(input_shape)
    for index, width in enumerate(filters, 1):
        x = layers.Conv2D(width, 5, padding="same", activation="relu", name=f"conv{index}")(x)
        x = layers.MaxPooling2D(name=f"pool{index}")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(units, activation="relu", name="dense1")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    outputs = layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="mnist_cnn")
