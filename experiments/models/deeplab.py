"""DeepLabV3+ for semantic segmentation, on ResNet-50 or ResNet-101."""

from tensorflow import keras

from experiments.models import blocks
from experiments.models.resnet import resnet_features

GENERATED = r"^stage\d_unit\d+_conv2$"
GENERATED_ASPP = r"^aspp_rate\d+$"


def deeplab_v3_plus(
    depth: int = 50, classes: int = 21, input_shape: tuple[int, int, int] = (513, 513, 3)
) -> keras.Model:
    """Returns a model from images [N, H, W, 3] to logits [N, H, W, classes].

    Atrous spatial pyramid pooling at output stride 16, a low-level branch of 48
    channels, and two 3x3 convolutions in the decoder: 40,352,181 trainable
    parameters on ResNet-50, 59,344,309 on ResNet-101.

    References:
      Chen, Zhu, Papandreou, Schroff and Adam 2018, figure 2; Omidvar et al. 2021,
      table 3, which calls it Deeplab V3.
    """
    layers = keras.layers
    inputs = keras.Input(input_shape)
    low, high = resnet_features(inputs, depth, dilate_last_stage=True)
    x = _resize(_pyramid(high), low.shape[1:3], "decoder_resize")
    low = blocks.conv_norm_relu(low, 48, 1, "low_level")
    x = layers.Concatenate(name="decoder_concat")([x, low])
    x = blocks.conv_norm_relu(x, 256, 3, "decoder_conv1")
    x = blocks.conv_norm_relu(x, 256, 3, "decoder_conv2")
    x = blocks.conv(classes, 1, use_bias=True, name="logits")(x)
    outputs = _resize(x, input_shape[:2], "resize")
    return keras.Model(inputs, outputs, name=f"deeplab_v3_plus_resnet{depth}")


def _pyramid(x: blocks.Tensor) -> blocks.Tensor:
    layers = keras.layers
    branches = [blocks.conv_norm_relu(x, 256, 1, "aspp_conv")]
    for rate in (6, 12, 18):
        branches.append(blocks.conv_norm_relu(x, 256, 3, f"aspp_rate{rate}", dilation_rate=rate))
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="aspp_pool")(x)
    pooled = blocks.conv_norm_relu(pooled, 256, 1, "aspp_pool_conv")
    branches.append(layers.UpSampling2D(tuple(x.shape[1:3]), name="aspp_pool_spread")(pooled))
    x = layers.Concatenate(name="aspp_concat")(branches)
    x = blocks.conv_norm_relu(x, 256, 1, "aspp_project")
    return layers.Dropout(0.1, name="aspp_dropout")(x)


def _resize(x: blocks.Tensor, size: tuple[int, int], name: str) -> blocks.Tensor:
    return keras.layers.Resizing(*size, interpolation="bilinear", name=name)(x)
