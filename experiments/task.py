"""What a training experiment is made of."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from tensorflow import keras

from experiments.config import ExperimentConfig
from experiments.datasets import Data

Model = Any

_LONG = 100  # steps


@dataclasses.dataclass(frozen=True)
class Task:
    """One of the paper's experiments.

    Attributes:
      name: of the experiment.
      load: configuration to data.
      build: configuration and data to an exact Keras model that ends in logits.
      optimizer: configuration and steps in an epoch to a Keras optimizer.
      measure: what is reported of evaluation.
      prepare: (x, y, seed) to a training example, e.g. augmentation; x comes as stored.
      standardize: x to what the model takes, in training and evaluation.
      exclude: layers that stay exact unless named by --approximate_layers.
      serving_model: configuration, data and the trained model (stock layers) to the
        model that is exported.
      trial: flags of a run of a minute or so, for those who only want to see one.
      settings: what else a training depends on, beside the configuration.
    """

    name: str
    load: Callable[[ExperimentConfig], Data]
    build: Callable[[ExperimentConfig, Data], Model]
    optimizer: Callable[[ExperimentConfig, int], Any]
    standardize: Callable[[Any], Any]
    measure: Literal["accuracy", "perplexity"] = "accuracy"
    prepare: Callable[[Any, Any], Any] | None = None
    exclude: str | None = None
    serving_model: Callable[[ExperimentConfig, Data, Model], Model] | None = None
    trial: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def length(self, steps: int, batch_size: int, params: int) -> str:
        """Returns how long a training is, and how to ask for a shorter one if it is long."""
        told = f"{steps:,} steps of {batch_size} examples, {params:,} parameters"
        return f"{told}; to see it run: {self.trial}" if self.trial and steps > _LONG else told


def adam(config: ExperimentConfig, steps: int) -> Any:
    """Returns the optimizer of the networks for MNIST.

    References: Adelman and Silberstein, 2018, "MLP for MNIST", "CNN for MNIST".
    """
    rate: Any = config.learning_rate or 0.001
    if config.cosine_decay:
        total = config.steps or config.epochs * steps
        rate = keras.optimizers.schedules.CosineDecay(rate, total)
    return keras.optimizers.Adam(rate, epsilon=1e-8)
