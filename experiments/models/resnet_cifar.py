"""Residual networks for CIFAR: ResNet-20, 32, 44, 56, 110."""

from tensorflow import keras

from experiments.models import blocks

GENERATED = r"^stage\d_unit\d+_conv\d$"


def resnet_cifar(
    depth: int = 20,
    shortcut: str = "A",
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    activation: str = "relu",
) -> keras.Model:
    """Returns a residual network of 6n + 2 layers that ends in logits.

    ResNet-20 has 269,722 trainable parameters with shortcut A, ResNet-56 853,018.

    Args:
      depth: 6n + 2 for n units in each of the three stages of widths 16, 32, 64.
      shortcut: where the width changes, "A" subsamples and appends zero channels,
        "B" is a 1x1 convolution with normalisation.
      classes: number of logits.
      input_shape: [height, width, channels] of one image.
      activation: "crelu" halves the outputs of all convolutions but the stem and
        doubles them again as [y, -y] after the normalisation.

    References:
      He, Zhang, Ren and Sun 2016, section 4.2 (architecture, shortcuts A and B);
      Shang, Sohn, Almeida and Lee 2016 (CReLU).
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 (20, 32, 44, 56, 110, ...), got {depth}")
    if shortcut not in ("A", "B"):
        raise ValueError(f"shortcut must be A or B, got {shortcut!r}")
    blocks.check_activation(activation)
    inputs = keras.Input(input_shape)
    x = blocks.conv_norm_relu(inputs, 16, 3, "stem")
    for stage, width in enumerate((16, 32, 64), 1):
        for unit in range(1, (depth - 2) // 6 + 1):
            stride = 2 if stage > 1 and unit == 1 else 1
            name = f"stage{stage}_unit{unit}"
            y = _half(x, width, stride, activation, f"{name}_conv1")
            y = _half(blocks.relu(f"{name}_relu1")(y), width, 1, activation, f"{name}_conv2")
            if stride > 1:
                x = _shortcut(x, width, shortcut, name)
            x = keras.layers.Add(name=f"{name}_add")([x, y])
            x = blocks.relu(f"{name}_relu2")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name=f"resnet{depth}")


def _half(x: blocks.Tensor, filters: int, stride: int, activation: str, name: str) -> blocks.Tensor:
    if activation == "relu":
        return blocks.conv_norm(x, filters, 3, name, stride=stride)
    x = blocks.conv_norm(x, filters // 2, 3, name, stride=stride)
    return blocks.concatenate_negative(x, f"{name}_both")


def _shortcut(x: blocks.Tensor, filters: int, shortcut: str, name: str) -> blocks.Tensor:
    if shortcut == "B":
        return blocks.conv_norm(x, filters, 1, f"{name}_shortcut", stride=2)
    x = keras.layers.AveragePooling2D(1, strides=2, name=f"{name}_subsample")(x)
    return blocks.pad_channels(x, 0, filters - x.shape[-1], f"{name}_pad")
