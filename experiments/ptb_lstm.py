"""Trains the medium LSTM language model with a sampled output projection.

The 650 x 10,000 projection holds about half of the model's MACs; training it on half
of its columns saves 24.5 % at nearly the exact perplexity. The gates stay exact:
sampling them costs perplexity. Reproduce with

  python -m experiments.ptb_lstm --model_dir=DIR --dataset=ptb --data_dir=PTB \\
    --forward_ratio=0.5 --methods=exact,crs

References: Adelman and Silberstein, "Faster Neural Network Training with Approximate
Tensor Operations", 2018, section 3.4; Zaremba, Sutskever and Vinyals, "Recurrent
Neural Network Regularization", 2014, section 4.1.
"""

import sys
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from absl import app
from tensorflow import keras

from experiments import binary
from experiments.config import ExperimentConfig, define_flags
from experiments.corpus import load_corpus
from experiments.datasets import Data
from experiments.models.lstm_lm import LstmLmConfig, lstm_lm
from experiments.task import Task

STEPS = 35


def _load(config: ExperimentConfig) -> Data:
    return load_corpus(config.dataset, config.data_dir, config.batch_size, STEPS, config.seed)


def _sizes(config: ExperimentConfig, data: Data, **more: Any) -> LstmLmConfig:
    return LstmLmConfig(vocabulary=data.classes, units=config.size or 650, **more)


def _build(config: ExperimentConfig, data: Data) -> Any:
    fixed = {"batch_size": config.batch_size, "steps": STEPS, "stateful": True}
    return lstm_lm(_sizes(config, data, **fixed))


def _optimizer(config: ExperimentConfig, steps: int) -> Any:
    # The papers sum the loss over the steps of a window; Keras averages it, so rate
    # and clipping norm are converted.
    rate = (config.learning_rate or 1.0) * STEPS
    clipping = 5 / STEPS
    if config.cosine_decay:
        total = config.steps or config.epochs * steps
        return keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(rate, total), global_clipnorm=clipping
        )
    approximate = config.methods == ("crs",)
    first, decay = (29, 0.74) if approximate else (6, 0.8)
    boundaries = [steps * epoch for epoch in range(first, max(config.epochs, first + 1))]
    values = [rate * decay**i for i in range(len(boundaries) + 1)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    return keras.optimizers.SGD(schedule, global_clipnorm=clipping)


def _serving_model(config: ExperimentConfig, data: Data, trained: Any) -> Any:
    """Returns a model for any number of texts that starts each from a zero state."""
    model = lstm_lm(_sizes(config, data))
    for new, old in zip(model.trainable_weights, trained.trainable_weights, strict=True):
        new.assign(old)
    return model


TASK = Task(
    "ptb_lstm",
    _load,
    _build,
    _optimizer,
    tf.identity,
    measure="perplexity",
    exclude="^(?!projection$)",
    serving_model=_serving_model,
    trial="--steps=20 --size=128",
)


def main(argv: Sequence[str]) -> int:
    return binary.run(TASK, argv)


if __name__ == "__main__":
    define_flags(
        dataset="synthetic",
        cosine_decay=True,
        forward_ratio=0.5,
        epochs=39,
        batch_size=20,
        size_help="Width of embedding and LSTMs; 0 is 650.",
    )
    app.run(lambda argv: sys.exit(main(argv)))
