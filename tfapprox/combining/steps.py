"""What can be done to a model in turn: factorize, prune, cluster, quantize."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError


@dataclasses.dataclass(frozen=True)
class Factorize:
    """Low-rank kernels under a budget; see `CompressionConfig`."""

    config: CompressionConfig
    name = "factorize"


@dataclasses.dataclass(frozen=True)
class Prune:
    """Zeros in place of the smallest weights of every Dense, Conv1D and Conv2D kernel.

    Attributes:
      sparsity: share of zeros in each kernel.
      exclude: regular expression of layers to leave alone.
    """

    sparsity: float = 0.5
    exclude: str | None = None
    name = "prune"

    def __post_init__(self):
        if not 0 < self.sparsity < 1:
            raise UserError(f"sparsity must lie between 0 and 1, got {self.sparsity}")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """So few distinct values in each kernel that an index can stand for a weight.

    Attributes:
      clusters: distinct values in each kernel; with sparsity to preserve, zero is one.
      exclude: regular expression of layers to leave alone.
    """

    clusters: int = 16
    exclude: str | None = None
    name = "cluster"

    def __post_init__(self):
        if self.clusters < 2:
            raise UserError(f"clusters must be at least 2, got {self.clusters}")


@dataclasses.dataclass(frozen=True)
class Quantize:
    """Eight-bit integers in the TFLite model.

    Attributes:
      mode: "training" (quantization-aware: training sees the rounding), "post_training"
        (ranges measured on training inputs, no training), or "weights" (weights alone).
    """

    mode: Literal["training", "post_training", "weights"] = "training"
    name = "int8"

    def __post_init__(self):
        if self.mode not in ("training", "post_training", "weights"):
            raise UserError(f"mode must be training, post_training or weights, got {self.mode!r}")


Step = Factorize | Prune | Cluster | Quantize
_ORDER = (Factorize, Prune, Cluster, Quantize)
_WHY = {
    Factorize: "its factors are dense: it would undo pruning and clustering",
    Prune: "new zeros would break the clusters",
    Cluster: "new values would break the integers",
}


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The training in every step that trains; post-training quantization does not.

    Attributes:
      epochs, batch_size: of each step.
      learning_rate: of Adam.
      loss: what tf_keras's `Model.compile` takes.
      seed: of the order of examples and of the clusters' first centres.
    """

    epochs: int = 2
    batch_size: int = 64
    learning_rate: float = 1e-4
    loss: Any = "sparse_categorical_crossentropy"
    seed: int = 0

    def __post_init__(self):
        if min(self.epochs, self.batch_size) < 1 or self.learning_rate <= 0:
            raise UserError(f"epochs, batch_size and learning_rate must be positive, got {self}")


def check_order(steps: Sequence[Step]) -> None:
    """Sees to it that no step undoes an earlier one.

    Raises:
      UserError: no step, one that comes twice, or a wrong order.
    """
    if not steps:
        raise UserError("combine needs at least one step: Factorize, Prune, Cluster or Quantize")
    places = [_ORDER.index(type(step)) for step in steps]
    for i, (before, after) in enumerate(itertools.pairwise(places), 1):
        if after == before:
            raise UserError(f"{steps[i].name} comes twice: once is enough")
        if after < before:
            raise UserError(
                f"{steps[i].name} after {steps[i - 1].name}: {_WHY[type(steps[i])]}; the order is "
                + ", ".join(kind.name for kind in _ORDER)
            )
