"""Two ImageNet networks of the first generation: AlexNet and the one of Denton et al. 2014."""

from tensorflow import keras

Tensor = object


def alexnet(classes: int = 1000, input_shape: tuple[int, int, int] = (224, 224, 3)) -> keras.Model:
    """Returns AlexNet in its one-tower form, ending in logits: 61,100,840 parameters.

    References:
      Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
      networks", section 5.
    """
    layers = keras.layers
    inputs = keras.Input(input_shape)
    x = layers.ZeroPadding2D(2, name="pad1")(inputs)
    x = layers.Conv2D(64, 11, strides=4, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    x = _same_conv(192, 5, "conv2")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool2")(x)
    for index, filters in enumerate((384, 256, 256), 3):
        x = _same_conv(filters, 3, f"conv{index}")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool5")(x)
    outputs = _classifier(x, (4096, 4096), classes)
    return keras.Model(inputs, outputs, name="alexnet")


def denton2014(
    classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    widths: tuple[int, ...] = (4096, 4096),
) -> keras.Model:
    """Returns the network whose convolutions Denton et al. approximate, ending in logits.

    Sides of 224-pixel images: conv1 224 -> 110, pool 55, conv2 51, pool 26, conv3 26,
    pool 13, conv4, conv5, pool 7. The text fixes the convolutions and the pools, but
    not the hidden dense layers: their `widths` are AlexNet's. The local response
    normalisation of the time is left out.

    References:
      Denton, Zaremba, Bruna, LeCun and Fergus 2014, section 4 and supplement.
    """
    layers = keras.layers
    inputs = keras.Input(input_shape)
    x = layers.ZeroPadding2D(1, name="pad1")(inputs)
    x = layers.Conv2D(96, 7, strides=2, activation="relu", name="conv1")(x)
    x = _same_pool("pool1")(x)
    x = layers.Conv2D(256, 5, activation="relu", name="conv2")(x)
    x = _same_pool("pool2")(x)
    x = _same_pool("pool3")(_same_conv(512, 3, "conv3")(x))
    x = _same_conv(1024, 3, "conv4")(x)
    x = _same_pool("pool5")(_same_conv(512, 3, "conv5")(x))
    outputs = _classifier(x, widths, classes)
    return keras.Model(inputs, outputs, name="denton2014")


def _same_conv(filters: int, kernel_size: int, name: str) -> keras.layers.Layer:
    return keras.layers.Conv2D(filters, kernel_size, padding="same", activation="relu", name=name)


def _same_pool(name: str) -> keras.layers.Layer:
    return keras.layers.MaxPooling2D(3, strides=2, padding="same", name=name)


def _classifier(x: Tensor, widths: tuple[int, ...], classes: int) -> Tensor:
    x = keras.layers.Flatten()(x)
    for index, units in enumerate(widths, 1):
        x = keras.layers.Dropout(0.5, name=f"dropout{index}")(x)
        x = keras.layers.Dense(units, activation="relu", name=f"dense{index}")(x)
    return keras.layers.Dense(classes, name="logits")(x)
