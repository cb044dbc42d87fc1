"""MobileNetV2 in the form used for CIFAR."""

from tensorflow import keras

from experiments.models import blocks

GENERATED = r"^unit\d+_expand$"

# Expansion factor, output channels, number of units, stride of the first unit.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(classes: int = 10, input_shape: tuple[int, int, int] = (32, 32, 3)) -> keras.Model:
    """Returns MobileNetV2 for small images, ending in logits: 2,296,922 parameters.

    Stem and second stage have stride 1, the activations are plain ReLUs, every unit
    has an expansion (the one with factor 1 too), and a unit of stride 1 that changes
    the number of channels has a 1x1 convolution as shortcut.

    References:
      Sandler et al. 2018, table 2, with the changes for CIFAR that Omidvar et al.
      2021, table 1, counts.
    """
    inputs = keras.Input(input_shape)
    x = blocks.conv_norm_relu(inputs, 32, 3, "stem")
    unit = 0
    for expansion, width, count, first_stride in _STAGES:
        for index in range(count):
            unit += 1
            x = _unit(x, expansion, width, first_stride if index == 0 else 1, f"unit{unit}")
    x = blocks.conv_norm_relu(x, 1280, 1, "head")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="mobilenet_v2")


def _unit(x: blocks.Tensor, expansion: int, filters: int, stride: int, name: str) -> blocks.Tensor:
    channels = x.shape[-1]
    y = blocks.conv_norm_relu(x, expansion * channels, 1, f"{name}_expand")
    y = blocks.depthwise_norm(y, f"{name}_depthwise", stride)
    y = blocks.relu(f"{name}_depthwise_relu")(y)
    y = blocks.conv_norm(y, filters, 1, f"{name}_project")
    if stride > 1:
        return y
    if channels != filters:
        x = blocks.conv_norm(x, filters, 1, f"{name}_shortcut")
    return keras.layers.Add(name=f"{name}_add")([x, y])
