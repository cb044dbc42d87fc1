"""Networks to compress in benchmarks: random weights, for neither time depends on their values."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the networks' inputs are.

    Attributes:
      image: height and width of images.
      length: positions of a sequence.
      width: of the transformer and the LSTM.
      blocks: of the transformer.
    """

    image: int = 224
    length: int = 64
    width: int = 512
    blocks: int = 6


QUICK = Sizes(image=64, length=16, width=128, blocks=2)


def _application(name: str) -> Callable[[Sizes], Any]:
    def build(sizes: Sizes) -> Any:
        from tensorflow import keras

        shape = (sizes.image, sizes.image, 3)
        return getattr(keras.applications, name)(weights=None, input_shape=shape)

    return build


def transformer_encoder(sizes: Sizes) -> Any:
    """Returns an encoder of post-normalised blocks, [N, length, width] to the same."""
    from tensorflow import keras

    layers = keras.layers
    inputs = x = keras.Input((sizes.length, sizes.width))
    for _ in range(sizes.blocks):
        attention = layers.MultiHeadAttention(sizes.width // 64, 64)(x, x)
        x = layers.LayerNormalization()(x + attention)
        hidden = layers.Dense(4 * sizes.width, activation="gelu")(x)
        x = layers.LayerNormalization()(x + layers.Dense(sizes.width)(hidden))
    return keras.Model(inputs, x)


def lstm(sizes: Sizes) -> Any:
    """Returns two LSTMs and a projection to 10,000 words, [N, length, width] to [N, 10000]."""
    from tensorflow import keras

    layers = keras.layers
    inputs = keras.Input((sizes.length, sizes.width))
    x = layers.LSTM(sizes.width, return_sequences=True)(inputs)
    x = layers.LSTM(sizes.width)(x)
    return keras.Model(inputs, layers.Dense(10_000)(x))


NETWORKS: dict[str, Callable[[Sizes], Any]] = {
    "VGG16": _application("VGG16"),
    "ResNet50": _application("ResNet50"),
    "MobileNetV2": _application("MobileNetV2"),
    "transformer": transformer_encoder,
    "LSTM": lstm,
}


def export_network(name: str, sizes: Sizes, target: Path) -> None:
    """Writes a network as a SavedModel that holds each weight once, unless it is there already."""
    if target.exists():
        return
    from tensorflow import keras

    from experiments.export import export_saved_model

    keras.utils.set_random_seed(0)
    model = NETWORKS[name](sizes)
    shape = (1, *model.input_shape[1:])
    unfinished = target.with_name(target.name + ".unfinished")
    export_saved_model(model, unfinished, np.zeros(shape, np.float32))
    unfinished.rename(target)
    keras.backend.clear_session()
