"""Writes a SavedModel by a plan that no selector made, and reports on it like on any other."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfapprox.accounting.factorization import Factorization
from tfapprox.compression.steps import Clock, model_size, require_passed
from tfapprox.compression.traces import disk_bytes, leave_traces
from tfapprox.planning import Progress, cost_after, no_progress
from tfapprox.report.environment import collect_environment, peak_memory_bytes
from tfapprox.report.report import Report
from tfapprox.rewriters.plan import Plan
from tfapprox.rewriters.publish import staged
from tfapprox.rewriters.saved_model import SavedModelSource, write_saved_model
from tfapprox.rewriters.verify import verify_saved_model
from tfapprox.serving.inputs import Inputs


def write_planned(
    opened: SavedModelSource,
    plan: Plan,
    built: Mapping[str, Factorization],
    destination: Path,
    inputs: Inputs | None,
    tags: Sequence[str],
    notes: Sequence[str] = (),
    seed: int = 0,
    progress: Progress = no_progress,
) -> Report:
    """Writes, verifies and publishes; plan and report travel inside the result.

    Args:
      opened: the source.
      plan: with the costs of what was built.
      built: site name -> what stands in for it.
      destination: put in place once it is complete and verified.
      inputs: to compare both models on; made up when None.
      notes: for the report.

    Raises:
      VerificationError: the result, read back, is not what it should be.
    """
    clock, source, inspection = Clock(), opened.files.path, opened.inspection
    with staged(destination) as staging:
        with clock("writing"):
            progress("writing", 0, 0)
            write_saved_model(opened, built, staging)
        with clock("verifying"):
            verification = require_passed(
                verify_saved_model(
                    str(staging), str(source), inputs,
                    tags=tags, signature=opened.signature, seed=seed, progress=progress,
                )
            )  # fmt: skip
        report = Report(
            source=str(source),
            destination=str(destination),
            plan=plan,
            before=model_size(inspection.cost, disk_bytes(source)),
            after=model_size(cost_after(inspection, plan), disk_bytes(staging)),
            environment=collect_environment(seed=seed),
            verification=dataclasses.replace(verification, candidate=str(destination)),
            notes=(*inspection.notes, *notes),
            seconds=clock.seconds,
            peak_memory_bytes=peak_memory_bytes(),
        )
        leave_traces(staging, report)
    return report
