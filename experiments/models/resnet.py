"""Residual networks for ImageNet with bottleneck units: ResNet-50 and ResNet-101."""

from tensorflow import keras

from experiments.models import blocks

GENERATED = r"^stage\d_unit\d+_conv2$"

_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def resnet(
    depth: int = 50, classes: int = 1000, input_shape: tuple[int, int, int] = (224, 224, 3)
) -> keras.Model:
    """Returns ResNet-50 or ResNet-101, ending in logits.

    25,557,032 and 44,549,160 trainable parameters for 1000 classes. The stride of a
    stage is in its first 3x3 convolution, as in torchvision.

    References:
      He, Zhang, Ren and Sun 2016, table 1.
    """
    inputs = keras.Input(input_shape)
    _, x = resnet_features(inputs, depth)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name=f"resnet{depth}")


def resnet_features(
    inputs: blocks.Tensor, depth: int, dilate_last_stage: bool = False
) -> tuple[blocks.Tensor, blocks.Tensor]:
    """Returns the outputs of the first stage (256 channels) and the last one (2048).

    Args:
      inputs: images [N, H, W, 3].
      depth: 50 or 101.
      dilate_last_stage: replace the last stage's stride by dilation 2, so that the
        output stride is 16 instead of 32.
    """
    if depth not in _UNITS:
        raise ValueError(f"depth must be among {sorted(_UNITS)}, got {depth}")
    x = blocks.conv_norm_relu(inputs, 64, 7, "stem", stride=2)
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    first = None
    for stage, units in enumerate(_UNITS[depth], 1):
        dilated = dilate_last_stage and stage == 4
        for unit in range(1, units + 1):
            stride = 2 if stage > 1 and unit == 1 and not dilated else 1
            dilation = 2 if dilated and unit > 1 else 1
            x = _unit(x, 32 * 2**stage, stride, dilation, f"stage{stage}_unit{unit}")
        first = x if first is None else first
    return first, x


def _unit(x: blocks.Tensor, filters: int, stride: int, dilation: int, name: str) -> blocks.Tensor:
    y = blocks.conv_norm_relu(x, filters, 1, f"{name}_conv1")
    y = blocks.conv_norm_relu(y, filters, 3, f"{name}_conv2", stride=stride, dilation_rate=dilation)
    y = blocks.conv_norm(y, 4 * filters, 1, f"{name}_conv3")
    if x.shape[-1] != 4 * filters:
        x = blocks.conv_norm(x, 4 * filters, 1, f"{name}_shortcut", stride=stride)
    return blocks.relu(f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))
