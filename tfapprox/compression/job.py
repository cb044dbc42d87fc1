"""One order to compress a SavedModel."""

import dataclasses
from collections.abc import Callable
from os import PathLike
from pathlib import Path

from tfapprox.config import CompressionConfig
from tfapprox.serving.calibration_data import CalibrationData
from tfapprox.serving.inputs import Inputs
from tfapprox.training.distillation_config import DistillationConfig


@dataclasses.dataclass(frozen=True)
class Job:
    """The arguments of `compress_saved_model` but its plan and progress."""

    source: Path
    destination: Path
    config: CompressionConfig
    tags: tuple[str, ...]
    signature: str | None
    inputs: Inputs | None
    warmup: Inputs | None
    overwrite: bool
    batch_sizes: tuple[int, ...]
    threads: int | None
    evaluate: Callable[[str], float] | None
    scores: str | PathLike[str] | None
    calibration_data: CalibrationData | None = None
    refinement: DistillationConfig | None = None
    distillation: DistillationConfig | None = None
    work_dir: Path | None = None
    run: bool = True

    @property
    def measured_sizes(self) -> tuple[int, ...]:
        own = {self.config.batch_size} if self.config.measures_latency else set()
        return tuple(sorted({*self.batch_sizes, *own}))
