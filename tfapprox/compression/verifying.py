"""The check of a result before it takes its place: run beside the original, or compared unrun."""

import dataclasses
from pathlib import Path

from tfapprox.compression.job import Job
from tfapprox.compression.steps import require_passed
from tfapprox.errors import UserError, VerificationError
from tfapprox.planning import Progress
from tfapprox.rewriters.agreement import Verification
from tfapprox.serving.signature import read_signatures

NOT_RUN = "neither model was run: compare them with tfapprox verify where that is safe"


def verify_result(job: Job, staging: Path, progress: Progress) -> Verification | None:
    """Returns how the result compares; None where it must not be run.

    Raises:
      VerificationError: it is not what it should be.
    """
    from tfapprox.rewriters.verify import compare_structure, verify_saved_model

    if not job.run:
        found, wanted = (read_signatures(str(m), job.tags) for m in (staging, job.source))
        failures = compare_structure(found, wanted)
        if failures:
            raise VerificationError(f"the rewritten model was not written: {'; '.join(failures)}")
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
        "distillation": job.distillation,
        "calibration of errors": job.calibration_data is not None and job.config.calibrates,
    }
    for name, wanted in wants.items():
        if wanted:
            raise UserError(f"{name} needs to run the model: drop it, or --dont_run")
