"""The check of a result before it takes its place: run beside the original, or compared unrun."""

import dataclasses
from pathlib import Path

from tfapprox.compression.job import Job
from tfapprox.compression.steps import require_passed
from tfapprox.errors import UserError
from tfapprox.progress import Progress
from tfapprox.rewriters.agreement import Verification


def verify_result(job: Job, staging: Path, progress: Progress) -> Verification | None:
    """Returns how the result compares; None where it must not be run.

    Raises:
      VerificationError: it is not what it should be.
    """
    from tfapprox.rewriters.verify import require_same_structure, verify_saved_model

    if not job.run:
        require_same_structure(str(staging), str(job.source), job.tags)
        return None
    verification = verify_saved_model(
        str(staging), str(job.source), job.inputs,
        tags=job.tags, signature=job.signature, seed=job.config.seed, progress=progress,
    )  # fmt: skip
    require_passed(verification)
    return dataclasses.replace(verification, candidate=str(job.destination))


def check_runs(job: Job) -> None:
    """Refuses what needs to run a model that must not be run.

    Raises:
      UserError: naming it.
    """
    if job.run:
        return
    wants = {
        "a warmup record": job.warmup,
        "labels or an evaluate function": job.evaluate,
        "a budget or objective of latency": job.config.measures_latency,
        "refinement": job.refinement,
        "distillation": job.distillation,
        "calibration of errors": job.calibration_data is not None and job.config.calibrates,
    }
    for name, wanted in wants.items():
        if wanted:
            raise UserError(f"{name} needs to run the model: drop it, or --dont_run")
