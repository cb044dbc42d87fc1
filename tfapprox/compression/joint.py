"""Writes a SavedModel by a plan that no selector made, and reports on it like on any other."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfapprox.accounting.factorization import Factorization
from tfapprox.compression.steps import Clock, model_size, require_passed
from tfapprox.compression.traces import disk_bytes, leave_traces
from tfapprox.planning import cost_after
from tfapprox.progress import Progress, no_progress
from tfapprox.report.environment import collect_environment, peak_memory_bytes
from tfapprox.report.report import ModelSize, Report
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.plan import Plan
from tfapprox.rewriters.publish import staged
from tfapprox.rewriters.saved_model import SavedModelSource, write_saved_model
from tfapprox.rewriters.verify import NOT_RUN, require_same_structure, verify_saved_model
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
    run: bool = True,
) -> Report:
    """Writes, verifies and publishes; plan and report travel inside the result.

    Args:
      opened: the source.
      plan: with the costs of what was built.
      built: site name -> what stands in for it.
      destination: put in place once it is complete and verified.
      inputs: to compare both models on; made up when None.
      notes: for the report.
      run: False for models that must not be run: their structure alone is compared.

    Raises:
      VerificationError: the result, read back, is not what it should be.
    """
    clock, source, inspection = Clock(), opened.files.path, opened.inspection
    with staged(destination) as staging:
        with clock("writing"):
            progress("writing", 0, 0)
            write_saved_model(opened, built, staging)
        with clock("verifying"):
            verification: Verification | None = None
            if run:
                verified = require_passed(
                    verify_saved_model(
                        str(staging), str(source), inputs,
                        tags=tags, signature=opened.signature, seed=seed, progress=progress,
                    )
                )  # fmt: skip
                verification = dataclasses.replace(verified, candidate=str(destination))
            else:
                require_same_structure(str(staging), str(source), tags)
        before = model_size(inspection.cost, disk_bytes(source))
        after = model_size(cost_after(inspection, plan), disk_bytes(staging))
        report = Report(
            source=str(source),
            destination=str(destination),
            plan=plan,
            before=before,
            after=after,
            environment=collect_environment(seed=seed),
            verification=verification,
            notes=(
                *inspection.notes,
                *notes,
                *(() if run else (NOT_RUN,)),
                *_growth(before, after),
            ),
            seconds=clock.seconds,
            peak_memory_bytes=peak_memory_bytes(),
        )
        leave_traces(staging, report)
    return report


def _growth(before: ModelSize, after: ModelSize) -> list[str]:
    """Returns a remark if a plan that is about size has made the model larger."""
    if after.params > before.params:
        return [
            f"parameters rose from {before.params:,} to {after.params:,}: keep fewer, or leave "
            "this model as it is"
        ]
    if after.params == before.params or after.disk_bytes <= before.disk_bytes:
        return []
    return [
        f"parameters fell from {before.params:,} to {after.params:,}, and yet the files grew from "
        f"{before.disk_bytes:,} to {after.disk_bytes:,} bytes: the graph that makes the kernels "
        "takes more room than they did"
    ]
