"""What experiments on images share: a network that is quick to train, and their messages' end."""

import keras
import pytest
from absl import logging

from experiments import image_training
from experiments.models import blocks


@pytest.fixture(autouse=True)
def same_verbosity():
    """What a binary run in this process says does not show in the tests after it."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.fixture
def tiny_network(monkeypatch):
    """Every --network is a residual one of three convolutions; others test the real ones."""

    def build(name, classes, size):
        x = inputs = keras.Input((size, size, 3))
        x = blocks.conv_norm_relu(x, 16, 3, "conv1")
        x = keras.layers.Add()([x, blocks.conv_norm_relu(x, 16, 3, "conv2")])
        x = blocks.conv_norm_relu(x, 32, 3, "conv3", stride=2)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(classes, name="logits")(x))

    monkeypatch.setattr(image_training, "build_network", build)
    return build
