"""Writes a SavedModel whose linear operations multiply sampled column-row pairs only.

Parameters stay as they are; multiply-adds fall to about the ratio. What is lost depends on
the activations, so no plan can promise an error: it is measured on the inputs that are
given. All examples of a batch share one choice of pairs, so an example's result depends on
the others of its batch.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfapprox.accounting.cost import StageShape, chain_cost
from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.errors import UserError, VerificationError
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.publish import check_target, staged
from tfapprox.rewriters.saved_model import SavedModelSource, open_saved_model, write_saved_model
from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.column_row import SampledStage, Variant
from tfapprox.rewriters.saved_model.einsum import EinsumProduct
from tfapprox.rewriters.saved_model.sites import KernelUses, SiteUse
from tfapprox.rewriters.verify import verify_saved_model
from tfapprox.serving.inputs import Inputs


@dataclasses.dataclass(frozen=True)
class SavedModelSampling:
    """What became of a SavedModel.

    Attributes:
      ratio, variant: of the sampling.
      sampled: names of the sites that are.
      kept: every other linear operation -> why it is exact.
      macs_before, macs_after: of the model for one example, norms included.
      verification: of the result against the source, in both loaders, with the errors on
        the inputs.
    """

    ratio: float
    variant: Variant
    sampled: tuple[str, ...]
    kept: dict[str, str]
    macs_before: int
    macs_after: int
    verification: Verification

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


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
) -> SavedModelSampling:
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
    chosen, kept = _choose(opened, include, exclude, ratio, variant, seed)
    if not chosen:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(kept.items())[:3])
        raise UserError(f"{source} has no product to sample: {reasons or 'no static kernel'}")
    before = opened.inspection.macs
    sites = {site.name: site for site in opened.inspection.sites}
    saved = sum(sites[n].cost.macs - sampled_macs(sites[n], f) for n, f in chosen.items())
    with staged(destination) as staging:
        write_saved_model(opened, chosen, staging)
        verification = verify_saved_model(
            str(staging), str(source), inputs, tags=tags, signature=signature, seed=seed
        )
        if not verification.passed:
            raise VerificationError(
                "the sampled model failed its verification, nothing was written: "
                + "; ".join(verification.failures)
            )
    verification = dataclasses.replace(verification, candidate=str(destination))
    return SavedModelSampling(
        ratio, variant, tuple(chosen), kept, before, before - saved, verification
    )


def sampled_macs(site: Site, factorization: Factorization) -> int:
    """Returns the multiply-adds of a sampled site: the kept pairs and the columns' norms."""
    stage = factorization.stages[0]
    assert isinstance(stage, SampledStage)
    height, width, channels, out_channels = site.kernel.shape
    shape = StageShape((height, width), stage.kept(channels), out_channels)
    product = chain_cost([shape], site.geometries, site.kernel.dtype.itemsize).macs
    return product + sum(channels * int(np.prod(g.input_size)) for g in site.geometries)


def _choose(
    opened: SavedModelSource,
    include: str,
    exclude: str | None,
    ratio: float,
    variant: Variant,
    seed: int,
) -> tuple[dict[str, Factorization], dict[str, str]]:
    chosen: dict[str, Factorization] = {}
    kept = {operation.name: operation.reason for operation in opened.inspection.kept}
    for number, kernel in enumerate(k for k in opened.kernels if not k.reason):
        site = kernel.site
        dense = np.ascontiguousarray(site.kernel)
        stage = SampledStage(dense, ratio=ratio, variant=variant, seed=seed + number)
        built = Factorization((stage,))
        if not re.search(include, site.name) or (exclude and re.search(exclude, site.name)):
            kept[site.name] = "excluded"
        elif reason := _why_not(kernel):
            kept[site.name] = reason
        elif sampled_macs(site, built) >= site.cost.macs:
            kept[site.name] = "norms would cost more than sampling saves"
        else:
            chosen[site.name] = built
    return chosen, kept


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
