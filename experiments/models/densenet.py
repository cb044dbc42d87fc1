"""Densely connected networks for CIFAR: DenseNet and DenseNet-BC."""

import dataclasses

from tensorflow import keras

from experiments.models import blocks

GENERATED = r"^block\d_unit\d+_conv$"
GENERATED_WITH_BOTTLENECKS = r"^block\d_unit\d+_(conv|bottleneck)$"


@dataclasses.dataclass(frozen=True)
class DenseNetConfig:
    """DenseNet(-BC)-L-k; the defaults are DenseNet-BC-40-48.

    Attributes:
      depth: L, 3n + 4 layers, or 6n + 4 with bottlenecks, for n units in each block.
      growth: k, channels each unit adds.
      bottleneck: a 1x1 convolution to 4k channels before each 3x3 ("B").
      reduction: theta, the share of channels a transition keeps ("C" when below 1).
      stem: channels of the first convolution; None means 2k when theta < 1, else 16.
      classes: number of logits.
      input_shape: [height, width, channels] of one image.
      activation: "crelu" halves all widths but the classifier's input and doubles
        the channels again in each activation.
    """

    depth: int = 40
    growth: int = 48
    bottleneck: bool = True
    reduction: float = 0.5
    stem: int | None = None
    classes: int = 10
    input_shape: tuple[int, int, int] = (32, 32, 3)
    activation: str = "relu"

    def __post_init__(self):
        layers_per_unit = 2 if self.bottleneck else 1
        if self.depth < 7 or (self.depth - 4) % (3 * layers_per_unit):
            raise ValueError(
                f"depth must be {3 * layers_per_unit}n + 4 for three equal blocks, got {self.depth}"
            )
        if not 0 < self.reduction <= 1:
            raise ValueError(f"reduction must be in (0, 1], got {self.reduction}")
        blocks.check_activation(self.activation)

    @property
    def units(self) -> int:
        """Units in each of the three blocks."""
        return (self.depth - 4) // (6 if self.bottleneck else 3)

    @property
    def width_factor(self) -> int:
        """What divides the width of each convolution's output."""
        return 2 if self.activation == "crelu" else 1


def densenet(config: DenseNetConfig | None = None) -> keras.Model:
    """Returns a DenseNet for small images that ends in logits.

    The stem has no normalisation. DenseNet-BC-40-48 has 2,733,130 trainable parameters;
    DenseNet-40-12 has 1,019,722 with the paper's stem of 16 channels and 1,059,298
    with one of 2k, which is what Elhoushi et al. 2019, table 2, train.

    References:
      Huang, Liu, van der Maaten and Weinberger 2017, sections 3 and 4.2.
    """
    config = config or DenseNetConfig()
    inputs = keras.Input(config.input_shape)
    stem = config.stem or (2 * config.growth if config.reduction < 1 else 16)
    x = blocks.conv(stem // config.width_factor, 3, name="stem")(inputs)
    for block in (1, 2, 3):
        for unit in range(1, config.units + 1):
            name = f"block{block}_unit{unit}"
            x = keras.layers.Concatenate(name=f"{name}_concat")([x, _unit(x, config, name)])
        if block < 3:
            width = int(x.shape[-1] * config.reduction)
            x = _activated_conv(x, width, 1, config, f"transition{block}")
            x = keras.layers.AveragePooling2D(2, name=f"transition{block}_pool")(x)
    x = _activation(x, config, "last")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(config.classes, name="logits")(x)
    return keras.Model(inputs, outputs, name=f"densenet_{config.depth}_{config.growth}")


def _unit(x: blocks.Tensor, config: DenseNetConfig, name: str) -> blocks.Tensor:
    width = config.growth // config.width_factor
    if config.bottleneck:
        x = _activated_conv(x, 4 * width, 1, config, f"{name}_bottleneck")
    return _activated_conv(x, width, 3, config, f"{name}_conv")


def _activated_conv(
    x: blocks.Tensor, filters: int, kernel_size: int, config: DenseNetConfig, name: str
) -> blocks.Tensor:
    return blocks.conv(filters, kernel_size, name=name)(_activation(x, config, name))


def _activation(x: blocks.Tensor, config: DenseNetConfig, name: str) -> blocks.Tensor:
    x = blocks.norm(f"{name}_bn")(x)
    if config.activation == "crelu":
        return blocks.crelu(x, f"{name}_crelu")
    return blocks.relu(f"{name}_relu")(x)
