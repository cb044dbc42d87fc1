"""Wide residual networks for CIFAR, WRN-d-k, with shortcuts free of parameters."""

from tensorflow import keras

from experiments.models import blocks

GENERATED = r"^group\d_unit\d+_conv\d$"


def wide_resnet(
    depth: int = 28,
    widening: int = 10,
    classes: int = 100,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    shortcut: str = "pad",
) -> keras.Model:
    """Returns WRN-`depth`-`widening`, pre-activation, ending in logits.

    WRN-28-10 for 100 classes has 36,278,324 trainable parameters with "pad".

    Args:
      depth: 6n + 4 for n units in each of the three groups.
      widening: factor on the widths 16, 32, 64 of the groups.
      classes: number of logits.
      input_shape: [height, width, channels] of one image.
      shortcut: "pad" averages over the stride and pads with zero channels on both
        sides; "conv" is the 1x1 convolution of the original.

    References:
      Zagoruyko and Komodakis 2016, table 1;
      Adelman and Silberstein 2018, section 4.1.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, 40, ...), got {depth}")
    if shortcut not in ("pad", "conv"):
        raise ValueError(f"shortcut must be pad or conv, got {shortcut!r}")
    inputs = keras.Input(input_shape)
    x = blocks.conv(16, 3, name="stem")(inputs)
    for group, width in enumerate((16, 32, 64), 1):
        for unit in range(1, (depth - 4) // 6 + 1):
            stride = 2 if group > 1 and unit == 1 else 1
            x = _unit(x, width * widening, stride, shortcut, f"group{group}_unit{unit}")
    x = blocks.relu("last_relu")(blocks.norm("last_bn")(x))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name=f"wrn_{depth}_{widening}")


def _unit(x: blocks.Tensor, filters: int, stride: int, shortcut: str, name: str) -> blocks.Tensor:
    activated = blocks.relu(f"{name}_relu1")(blocks.norm(f"{name}_bn1")(x))
    if filters != x.shape[-1]:
        x = _shortcut(x, activated, filters, stride, shortcut, name)
    y = blocks.conv(filters, 3, stride, name=f"{name}_conv1")(activated)
    y = blocks.relu(f"{name}_relu2")(blocks.norm(f"{name}_bn2")(y))
    y = blocks.conv(filters, 3, name=f"{name}_conv2")(y)
    return keras.layers.Add(name=f"{name}_add")([x, y])


def _shortcut(
    x: blocks.Tensor,
    activated: blocks.Tensor,
    filters: int,
    stride: int,
    shortcut: str,
    name: str,
) -> blocks.Tensor:
    if shortcut == "conv":
        return blocks.conv(filters, 1, stride, name=f"{name}_shortcut")(activated)
    if stride > 1:
        x = keras.layers.AveragePooling2D(stride, name=f"{name}_subsample")(x)
    missing = filters - x.shape[-1]
    return blocks.pad_channels(x, missing // 2, missing - missing // 2, f"{name}_pad")
