"""ShuffleNetV2 in the form used for CIFAR."""

from tensorflow import keras

from experiments.models import blocks

GENERATED = r"^head$"

# Width of the three stages and of the head, by the factor in the network's name.
_WIDTHS = {
    "0.5": (48, 96, 192, 1024),
    "1.0": (116, 232, 464, 1024),
    "1.5": (176, 352, 704, 1024),
    "2.0": (224, 488, 976, 2048),
}


def shufflenet_v2(
    size: str = "0.5", classes: int = 10, input_shape: tuple[int, int, int] = (32, 32, 3)
) -> keras.Model:
    """Returns ShuffleNetV2 for small images, ending in logits; 0.5x has 352,042 parameters.

    The stem has stride 1 and no pooling follows it.

    Args:
      size: "0.5", "1.0", "1.5" or "2.0".
      classes: number of logits.
      input_shape: [height, width, channels] of one image, known sizes.

    References:
      Ma, Zhang, Zheng and Sun 2018, table 5 and figure 3 (c, d).
    """
    if size not in _WIDTHS:
        raise ValueError(f"size must be among {', '.join(_WIDTHS)}, got {size!r}")
    *widths, head = _WIDTHS[size]
    inputs = keras.Input(input_shape)
    x = blocks.conv_norm_relu(inputs, 24, 3, "stem")
    for stage, (width, units) in enumerate(zip(widths, (3, 7, 3), strict=True), 1):
        x = _down_unit(x, width // 2, f"stage{stage}_down")
        for unit in range(1, units + 1):
            x = _basic_unit(x, f"stage{stage}_unit{unit}")
    x = blocks.conv_norm_relu(x, head, 1, "head")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name=f"shufflenet_v2_{size}")


def _down_unit(x: blocks.Tensor, half: int, name: str) -> blocks.Tensor:
    left = blocks.depthwise_norm(x, f"{name}_left_depthwise", stride=2)
    left = blocks.conv_norm_relu(left, half, 1, f"{name}_left_conv")
    return _shuffle(left, _branch(x, half, 2, name), name)


def _basic_unit(x: blocks.Tensor, name: str) -> blocks.Tensor:
    half = x.shape[-1] // 2
    kept = blocks.crop_channels(x, 0, half, f"{name}_kept")
    rest = blocks.crop_channels(x, half, 0, f"{name}_rest")
    return _shuffle(kept, _branch(rest, half, 1, name), name)


def _branch(x: blocks.Tensor, filters: int, stride: int, name: str) -> blocks.Tensor:
    x = blocks.conv_norm_relu(x, filters, 1, f"{name}_conv1")
    x = blocks.depthwise_norm(x, f"{name}_depthwise", stride)
    return blocks.conv_norm_relu(x, filters, 1, f"{name}_conv2")


def _shuffle(left: blocks.Tensor, right: blocks.Tensor, name: str) -> blocks.Tensor:
    """Interleaves the channels of two tensors of equal shape."""
    layers = keras.layers
    x = layers.Concatenate(name=f"{name}_concat")([left, right])
    _, height, width, channels = x.shape
    x = layers.Reshape((height, width, 2, channels // 2), name=f"{name}_split")(x)
    x = layers.Permute((1, 2, 4, 3), name=f"{name}_shuffle")(x)
    return layers.Reshape((height, width, channels), name=f"{name}_merge")(x)
