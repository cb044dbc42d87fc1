"""Words that the convolutional families share: convolution, normalisation, channel padding.

Everything is a stock Keras layer of whichever flavour `tensorflow.keras` is (Keras 3, or
tf_keras under TF_USE_LEGACY_KERAS=1), so that any rewriter can take the models apart.
"""

from typing import Any

from tensorflow import keras

layers = keras.layers
Tensor = Any


def conv(filters: int, kernel_size: int, stride: int = 1, **options: Any) -> keras.layers.Layer:
    """Returns a convolution without bias, padded to keep its size, He-initialised."""
    options.setdefault("use_bias", False)
    options.setdefault("kernel_initializer", "he_normal")
    return layers.Conv2D(filters, kernel_size, strides=stride, padding="same", **options)


def norm(name: str) -> keras.layers.Layer:
    """Returns a batch normalisation with the constants the papers' code uses."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)


def relu(name: str | None = None) -> keras.layers.Layer:
    """Returns a ReLU layer."""
    return layers.Activation("relu", name=name)


def conv_norm(x: Tensor, filters: int, kernel_size: int, name: str, **options: Any) -> Tensor:
    """Applies a convolution and a batch normalisation, called `name` and `name`_bn."""
    x = conv(filters, kernel_size, name=name, **options)(x)
    return norm(f"{name}_bn")(x)


def conv_norm_relu(x: Tensor, filters: int, kernel_size: int, name: str, **options: Any) -> Tensor:
    """Applies a convolution, a batch normalisation and a ReLU."""
    return relu(f"{name}_relu")(conv_norm(x, filters, kernel_size, name, **options))


def pad_channels(x: Tensor, before: int, after: int, name: str) -> Tensor:
    """Appends channels of zeros to [N, H, W, C], with a stock layer.

    ZeroPadding2D told "channels first" pads the last two axes, whatever they mean.
    """
    padding = ((0, 0), (before, after))
    return layers.ZeroPadding2D(padding, data_format="channels_first", name=name)(x)


def check_activation(activation: str) -> None:
    """Raises ValueError for an activation that the families do not know."""
    if activation not in ("relu", "crelu"):
        raise ValueError(f"activation must be relu or crelu, got {activation!r}")


def concatenate_negative(x: Tensor, name: str) -> Tensor:
    """Returns [x, -x] along the channels: with a ReLU behind it, a CReLU."""
    negative = layers.Rescaling(-1.0, name=f"{name}_negative")(x)
    return layers.Concatenate(name=name)([x, negative])


def crelu(x: Tensor, name: str) -> Tensor:
    """Returns relu([x, -x]), twice as many channels."""
    return relu(name)(concatenate_negative(x, f"{name}_both"))


def crop_channels(x: Tensor, before: int, after: int, name: str) -> Tensor:
    """Drops channels of [N, H, W, C] at either end, with a stock layer."""
    cropping = ((0, 0), (before, after))
    return layers.Cropping2D(cropping, data_format="channels_first", name=name)(x)


def depthwise_norm(x: Tensor, name: str, stride: int = 1) -> Tensor:
    """Applies a 3x3 depthwise convolution and a batch normalisation."""
    x = layers.DepthwiseConv2D(
        3,
        strides=stride,
        padding="same",
        use_bias=False,
        depthwise_initializer="he_normal",
        name=name,
    )(x)
    return norm(f"{name}_bn")(x)
