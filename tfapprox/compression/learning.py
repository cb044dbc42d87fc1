"""Trains the factors of a SavedModel that was written: block by block, then all together."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tfapprox.compression.job import Job
from tfapprox.compression.steps import Clock
from tfapprox.progress import Progress
from tfapprox.serving.signature import default_signature, read_signatures
from tfapprox.training.distillation_config import Distillation, RefinedBlock

_NAMED = 3


def train_factors(
    job: Job, staging: Path, clock: Clock, progress: Progress
) -> tuple[tuple[RefinedBlock, ...], Distillation | None]:
    """Returns what came of the training that the job asks for, block by block and of the whole.

    Args:
      job: its models are loaded only where it trains.
      staging: the SavedModel whose factors change.
      clock: gets the seconds.
      progress: told of every step.

    Raises:
      UserError: nothing that can be trained, or too few data.
    """
    refined: tuple[RefinedBlock, ...] = ()
    distilled = None
    if job.refinement is None and job.distillation is None:
        return refined, distilled
    from tfapprox.training.distill_saved_model import distill_saved_model
    from tfapprox.training.refine_saved_model import refine_saved_model

    assert job.calibration_data is not None
    signature = job.signature or default_signature(read_signatures(str(job.source), job.tags))
    how: dict[str, Any] = {
        "signature": signature, "tags": job.tags, "work_dir": job.work_dir, "progress": progress,
    }  # fmt: skip
    if job.refinement is not None:
        with clock("refining"):
            refined = refine_saved_model(
                staging, job.source, job.calibration_data, job.refinement, **how
            )
    if job.distillation is not None:
        with clock("distilling"):
            distilled = distill_saved_model(
                staging, job.source, job.calibration_data, job.distillation, **how
            )
    return refined, distilled


def fixed_note(job: Job, opened: Any, replaced: Collection[str]) -> list[str]:
    """Returns a note on the sites whose factors a training leaves as they are, if there are some.

    Args:
      job: says whether it trains.
      opened: the source.
      replaced: names of the sites that were factorized.
    """
    if job.refinement is None and job.distillation is None:
        return []
    variables = opened.table.variables
    fixed = [
        kernel.name
        for kernel in opened.kernels
        if kernel.name in replaced and not any(root in variables for root in kernel.roots)
    ]
    if not fixed:
        return []
    more = f" and {len(fixed) - _NAMED} more" if len(fixed) > _NAMED else ""
    return [
        f"{', '.join(fixed[:_NAMED])}{more}: factors stay as they were fitted, because the "
        "kernel is a constant of the graph; the training changes variables alone"
    ]
