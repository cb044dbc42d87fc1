"""Trains a wide residual network on sampled channels.

WRN-28-10 on CIFAR-100 at 50 % of the channels saves 49.997 % of the training MACs;
input convolution and classifier stay exact. Reproduce with

  python -m experiments.cifar_wrn --model_dir=DIR --dataset=cifar100 \\
    --forward_ratio=0.5 --methods=exact,crs

which is 75,000 steps of 36.5 million parameters; --size=1001 --steps=20 --batch_size=32 shows it
run. For layers of 320 and 640 filters alone say --approximate_layers='group[23].*conv'.

References: Adelman and Silberstein, "Faster Neural Network Training with Approximate
Tensor Operations", 2018, section 4.1, Figure 2c; Zagoruyko and Komodakis, 2016.
"""

import sys
from collections.abc import Sequence
from typing import Any

from absl import app
from tensorflow import keras

from experiments import binary
from experiments.config import ExperimentConfig, define_flags
from experiments.datasets import Data, load_images
from experiments.images import crop_and_flip, whiten
from experiments.models.wide_resnet import wide_resnet
from experiments.task import Task

_DECAY = 0.002


def _load(config: ExperimentConfig) -> Data:
    return load_images(config.dataset, config.data_dir, (32, 32, 3), config.seed)


def _build(config: ExperimentConfig, data: Data) -> Any:
    depth, widening = divmod(config.size, 100) if config.size else (28, 10)
    return with_kernel_decay(wide_resnet(depth, widening, data.classes))


def with_kernel_decay(model: Any, decay: float = _DECAY) -> Any:
    """Returns a fresh copy of the model that adds decay * 0.5 * ||w||^2 for every kernel."""

    def clone(layer: Any) -> Any:
        settings = layer.get_config()
        if "kernel_regularizer" in settings:
            settings["kernel_regularizer"] = keras.regularizers.L2(decay / 2)
        return type(layer).from_config(settings)

    return keras.models.clone_model(model, clone_function=clone)


def _optimizer(config: ExperimentConfig, steps: int) -> Any:
    rate = config.learning_rate or 0.1
    total = config.steps or config.epochs * steps
    # The paper drops the rate at 40,000 and 60,000 of 75,000 steps.
    boundaries = [round(total * 40 / 75), round(total * 60 / 75)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        boundaries, [rate, rate / 10, rate / 100]
    )
    return keras.optimizers.SGD(schedule, momentum=0.9)


TASK = Task(
    "cifar_wrn",
    _load,
    _build,
    _optimizer,
    whiten,
    prepare=crop_and_flip,
    exclude="stem|logits",
    trial="--size=1001 --steps=20 --batch_size=32",
)


def main(argv: Sequence[str]) -> int:
    return binary.run(TASK, argv)


if __name__ == "__main__":
    define_flags(
        dataset="synthetic",
        forward_ratio=0.5,
        steps=75_000,
        batch_size=128,
        size_help="Depth and widening as one number, e.g. 1604 for WRN-16-4; 0 is WRN-28-10.",
    )
    app.run(lambda argv: sys.exit(main(argv)))
