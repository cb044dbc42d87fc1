"""Writes a SavedModel whose linear operations multiply sampled column-row pairs only.

Parameters stay as they are; multiply-adds fall to about the ratio. What is lost depends on
the activations, so no plan can promise an error: it is measured on the inputs that are
given. All examples of a batch share one choice of pairs, so an example's result depends on
the others of its batch.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tfapprox.accounting.factorization import Factorization
from tfapprox.compression.joint import write_planned
from tfapprox.decompositions import column_row
from tfapprox.errors import UserError
from tfapprox.progress import Progress, no_progress
from tfapprox.report.report import Report
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.rewriters.publish import check_target
from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.einsum import EinsumProduct
from tfapprox.rewriters.saved_model.sites import KernelUses, SiteUse
from tfapprox.serving.inputs import Inputs

Variant = Literal["topk", "sampled"]


def sample_saved_model(
    source: str | Path,
    destination: str | Path,
    ratio: float,
    variant: Variant = "topk",
    *,
    include: str = "",
    exclude: str | None = None,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    inputs: Inputs | None = None,
    seed: int = 0,
    overwrite: bool = False,
    run: bool = True,
    progress: Progress = no_progress,
) -> Report:
    """Writes a SavedModel with column-row-sampled products, in standard operations.

    Args:
      source: SavedModel directory; only read.
      destination: put in place once it is complete and verified.
      ratio: share of the pairs that each product keeps.
      variant: "topk", the heaviest pairs, or "sampled", drawn by their weight.
      include, exclude: regular expressions searched in site names.
      tags, signature: of the graph, and whose costs count.
      inputs: to compare both models on; made up when None.
      seed: of the draw, which is the same in every call.
      overwrite: replace a SavedModel that is at `destination`.
      run: False for a model that is not to be trusted: it is never run, and the result is
        compared by structure alone.
      progress: told of every step.

    Raises:
      UserError: bad source or destination, or no product that sampling makes cheaper.
      VerificationError: the result, read back, is not what it should be.
    """
    if not 0 < ratio <= 1:
        raise UserError(f"sampling ratio must be in (0, 1], got {ratio}")
    source, destination = Path(source), Path(destination)
    check_target(destination, source, overwrite)
    shapes = {key: value.shape for key, value in (inputs or {}).items()}
    opened = open_saved_model(source, tags, signature, shapes)
    built: dict[str, Factorization] = {}
    verdicts = []
    for number, kernel in enumerate(k for k in opened.kernels if not k.reason):
        admitted = re.search(include, kernel.name) and not (
            exclude and re.search(exclude, kernel.name)
        )
        choice = column_row.configuration(kernel.site, ratio, variant == "sampled", seed + number)
        one = column_row.sample(kernel.site, choice)
        verdict = _verdict(kernel, choice, one, "" if admitted else "excluded")
        verdicts.append(verdict)
        if verdict.choice is not None:
            built[kernel.name] = one
    if not built:
        kept = [(v.site, v.reason) for v in verdicts]
        kept += [(x.name, x.reason) for x in opened.inspection.kept]
        reasons = "; ".join(f"{name}: {reason}" for name, reason in kept[:3])
        raise UserError(f"{source} has no product to sample: {reasons or 'no static kernel'}")
    settings = {
        "decompositions": [column_row.NAME],
        "sampling_ratio": ratio,
        "sampling": variant,
        "seed": seed,
        "include": include,
        "exclude": exclude,
    }
    note = "what sampling loses depends on the inputs: on others the errors differ"
    plan = Plan(tuple(verdicts), settings)
    return write_planned(
        opened, plan, built, destination, inputs, tags, (note,), seed, progress, run
    )


def _verdict(
    kernel: KernelUses, choice: column_row.Configuration, built: Factorization, reason: str
) -> Verdict:
    site = kernel.site
    after = built.cost(site.geometries)
    reason = reason or _why_not(kernel)
    if not reason and after.macs >= site.cost.macs:
        reason = "norms would cost more than sampling saves"
    if reason:
        shape = site.kernel.shape
        return Verdict(site.name, site.kind, shape, None, reason, 0.0, site.cost, site.cost)
    error = column_row.expected_error(site, choice)
    return Verdict(site.name, site.kind, site.kernel.shape, choice, "", error, site.cost, after)


def _why_not(kernel: KernelUses) -> str:
    return next((reason for use in kernel.uses if (reason := _why_not_here(use))), "")


def _why_not_here(use: SiteUse) -> str:
    node, match = use.instance.body.nodes[use.node], use.match
    if match.form == "einsum":
        product = EinsumProduct.parse(attribute(node, "equation").s.decode(), match.operand)
        if len(product.contracted) > 1:
            return "an einsum over several axes has no columns to sample"
        open_rank, last = "..." in product.x, product.x.endswith(product.contracted)
        return "" if last or not open_rank else "its activations' rank is open"
    if match.form == "batch_matmul":
        flag = "adj_x" if match.operand == 1 else "adj_y"
        last = (match.operand == 1) != attribute(node, flag).b
        return "" if last else "its activations' rank is open"
    return ""
