"""Trains the 784-500-500-10 perceptron on sampled matrix products.

The paper's headline: 40 % of the pairs forward and 5 % (at least 10) in the
gradients save 79.5 % of the training MACs at the exact accuracy. Reproduce with

  python -m experiments.mnist_mlp --model_dir=DIR --dataset=mnist \\
    --forward_ratio=0.4 --backward_ratio=0.05 --methods=exact,crs,meprop --seeds=3

References: Adelman and Silberstein, "Faster Neural Network Training with Approximate
Tensor Operations", 2018, Tables 1 and 2, Figure 1c.
"""

import sys
from collections.abc import Sequence
from typing import Any

from absl import app
from tensorflow import keras

from experiments import binary
from experiments.config import ExperimentConfig, define_flags
from experiments.datasets import Data, load_images
from experiments.images import to_unit
from experiments.models.mlp import mlp
from experiments.task import Task


def _load(config: ExperimentConfig) -> Data:
    return load_images(config.dataset, config.data_dir, seed=config.seed)


def _build(config: ExperimentConfig, data: Data) -> Any:
    width = config.size or 500
    return mlp((width, width), data.classes, data.train.x.shape[1:])


def _optimizer(config: ExperimentConfig, steps: int) -> Any:
    return keras.optimizers.Adam(config.learning_rate or 0.001, epsilon=1e-8)


TASK = Task("mnist_mlp", _load, _build, _optimizer, to_unit)


def main(argv: Sequence[str]) -> int:
    return binary.run(TASK, argv)


if __name__ == "__main__":
    define_flags(backward_ratio=0.05, size_help="Width of the hidden layers; 0 is 500.")
    app.run(lambda argv: sys.exit(main(argv)))
