"""How to train a model's factors to give the original's outputs, and what came of it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tfapprox.errors import UserError

STRATEGIES = ("none", "mirrored")

_WARM_UP = 0.05  # of the steps


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """How to train.

    Attributes:
      steps: batches to train on.
      learning_rate: of Adam at its highest; it rises briefly and falls as a cosine to 0.
      batch_size: examples of a batch, where the data are not batched already.
      seed: of the split and the order of the batches.
      strategy: "mirrored" shares each batch among all GPUs of this machine.
    """

    steps: int
    learning_rate: float = 1e-3
    batch_size: int = 32
    seed: int = 0
    strategy: str = "none"

    def __post_init__(self):
        if self.steps < 1 or self.batch_size < 1:
            raise UserError(
                f"distillation needs steps and a batch size of at least 1, got {self.steps} "
                f"and {self.batch_size}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"the learning rate must be above 0, got {self.learning_rate}")
        if self.strategy not in STRATEGIES:
            raise UserError(
                f"the distribution strategy must be {' or '.join(STRATEGIES)}, "
                f"got {self.strategy!r}"
            )

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        warm = max(1.0, _WARM_UP * self.steps)
        rise = min(1.0, (step + 1) / warm)
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What came of the training, judged on batches that it did not see.

    Attributes:
      steps: that were run; best_step: whose factors were kept, 0 being the untrained ones.
      loss_before, loss_after: see `OutputLoss`, summed over the outputs.
      error_before, error_after: the largest relative error of any output.
      batches, held_back: that were trained on, and judged by.
      notes: what the user should know.
    """

    steps: int
    best_step: int
    loss_before: float
    loss_after: float
    error_before: float
    error_after: float
    batches: int
    held_back: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Distillation":
        return cls(**{**body, "notes": tuple(body["notes"])})


@dataclasses.dataclass(frozen=True)
class RefinedBlock:
    """What came of training one block to give what the original does there.

    Attributes:
      name: of what gives the block's output.
      factors: that were trained.
      training: judged on that output alone.
    """

    name: str
    factors: tuple[str, ...]
    training: Distillation

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "RefinedBlock":
        training = Distillation.from_json(body["training"])
        return cls(body["name"], tuple(body["factors"]), training)
