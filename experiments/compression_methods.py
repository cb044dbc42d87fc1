"""The rows of the compression table: which methods, at which shares, measured how."""

import dataclasses
import math

from tfapprox import registry
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.errors import UserError
from tfapprox.selection.problem import Budget, CostKind


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
      selector, decompositions: see `CompressionConfig`; no decompositions means all.
      calibration: what the sites are fitted to, see `CompressionConfig`.
      budget: what the row keeps a share of.
      metric: of the errors that the selector sees; its own when None.
      most_params: a model may have to be measured by this method; others take long.
    """

    selector: str
    decompositions: tuple[str, ...] = ("svd",)
    calibration: str = "none"
    budget: CostKind = "macs"
    metric: str | None = None
    most_params: float = math.inf

    @property
    def is_timed(self) -> bool:
        """Whether candidates are timed on this machine."""
        return "latency" in (self.selector, self.budget)

    def config(self, keep: float, settings: "Settings") -> CompressionConfig:
        """Returns the compression that keeps this share."""
        return CompressionConfig(
            Budget(self.budget, keep=keep),
            self.selector,
            self.decompositions or tuple(registry.DECOMPOSITIONS),
            self.metric,
            candidates=CandidateOptions(rank_multiple=settings.rank_multiple),
            seed=settings.seed,
            batch_size=max(settings.batch_sizes),
            calibration=self.calibration,
        )


METHODS = {
    "uniform svd": Method("uniform"),
    "energy": Method("energy"),
    "lrank": Method("lrank"),
    "pca": Method("pca"),
    "evbmf, tucker2": Method("evbmf", ("tucker2", "svd")),
    "alds": Method("alds"),
    "alds+": Method("alds", (), most_params=1e5),
    "uniform svd, calibrated": Method("uniform", calibration="symmetric"),
    "pca, calibrated": Method("pca", calibration="symmetric"),
    "lrank, calibrated": Method("lrank", calibration="symmetric"),
    "alds, calibrated": Method("alds", calibration="symmetric"),
    "alds, anchored": Method("alds", calibration="anchored"),
    "alds by outputs, anchored": Method(
        "alds", calibration="anchored", metric="output", most_params=1e6
    ),
    "alds, rectified": Method("alds", calibration="rectified"),
    "pca, rectified": Method("pca", calibration="rectified", most_params=1e6),
    "latency, calibrated": Method("latency", calibration="symmetric"),
    "latency of milliseconds, calibrated": Method(
        "latency", calibration="symmetric", budget="latency"
    ),
}

MAIN = ("uniform svd", "alds", "alds, calibrated", "alds, rectified")
"""Methods that models are measured by that take long."""

LARGE = 1_000_000_000
"""Multiply-adds of one example, above which a model takes long."""

FEWEST_TO_TRAIN = 16
"""Inputs: fewer would be learnt by heart."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all cells share.

    Attributes:
      keeps: shares of the MACs, or of what else a method keeps.
      methods: names in `METHODS`.
      refined: those that are refined block by block, too; refine_steps: of every block.
      distilled: those that are distilled, too; distill_steps, learning_rate: how.
      calibration, held_back: examples of each for networks that are trained here.
      rank_multiple: see `CandidateOptions`.
      batch_sizes: to measure latency at.
      seed: of everything random.
    """

    keeps: tuple[float, ...] = (0.2, 0.33, 0.5)
    methods: tuple[str, ...] = tuple(METHODS)
    refined: tuple[str, ...] = ("alds, rectified",)
    refine_steps: int = 50
    distilled: tuple[str, ...] = ("uniform svd", "alds, rectified")
    distill_steps: int = 150
    learning_rate: float = 3e-3
    calibration: int = 256
    held_back: int = 1000
    rank_multiple: int = 1
    batch_sizes: tuple[int, ...] = (1, 8)
    seed: int = 0

    def __post_init__(self):
        named = (*self.methods, *self.refined, *self.distilled)
        unknown = [name for name in named if name not in METHODS]
        if unknown:
            raise UserError(f"unknown method {unknown[0]!r}; choose among {', '.join(METHODS)}")
