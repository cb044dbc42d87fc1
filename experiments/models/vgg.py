"""VGG16 and VGG19 with batch normalisation, in the form used for CIFAR."""

from tensorflow import keras

from experiments.models import blocks

GENERATED = r"^conv(?!1_1$)\d_\d$"

_CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(
    depth: int = 16,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    width: int = 64,
    use_bias: bool = True,
) -> keras.Model:
    """Returns VGG-`depth` with batch normalisation and one dense layer, ending in logits.

    VGG16 has 14,728,266 trainable parameters and VGG19 20,040,522; the convolutions
    have biases, as in the original, unless `use_bias` is off. They are called
    conv<block>_<index>.

    Args:
      depth: 16 or 19.
      classes: number of logits.
      input_shape: [height, width, channels] of one image, at least 32 pixels a side.
      width: filters of the first block; the last two have eight times as many.
      use_bias: of the convolutions, before batch normalisation.

    References:
      Simonyan and Zisserman 2015, table 1 (D and E); the three dense layers for
      224x224 images are replaced by one of 512 inputs, as is usual for CIFAR.
    """
    if depth not in _CONVOLUTIONS:
        raise ValueError(f"depth must be among {sorted(_CONVOLUTIONS)}, got {depth}")
    inputs = x = keras.Input(input_shape)
    for block, count in enumerate(_CONVOLUTIONS[depth], 1):
        filters = width * min(8, 2 ** (block - 1))
        for index in range(1, count + 1):
            x = blocks.conv_norm_relu(x, filters, 3, f"conv{block}_{index}", use_bias=use_bias)
        x = keras.layers.MaxPooling2D(name=f"pool{block}")(x)
    x = keras.layers.Flatten()(x)
    outputs = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name=f"vgg{depth}_bn")
