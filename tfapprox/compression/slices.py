"""Replaces a SavedModel's convolution kernels by codes and one slice generator.

Nothing is trained and no data are needed: the generator is the best linear one for all
chosen kernels together. The model computes as many products as before; it is smaller on
disk and on its way there. Servers compute each kernel once, when they load the model.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from tfapprox import registry
from tfapprox.accounting.site import Site
from tfapprox.compression.joint import write_planned
from tfapprox.decompositions.generated import NAME, generate, usual_shape
from tfapprox.decompositions.slice_generator import SliceShape
from tfapprox.errors import UserError
from tfapprox.progress import Progress, no_progress
from tfapprox.report.report import Report
from tfapprox.rewriters.plan import Plan
from tfapprox.rewriters.publish import check_target
from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.selection.evbmf import EvbmfSelector
from tfapprox.selection.problem import Budget
from tfapprox.serving.inputs import Inputs
from tfapprox.slice_planning import choose_code_size, slice_verdicts


def generate_saved_model_slices(
    source: str | Path,
    destination: str | Path,
    code_size: int | Budget,
    slice_shape: Sequence[int] | None = None,
    which: str | None = None,
    *,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    selector: str | EvbmfSelector = "alds",
    inputs: Inputs | None = None,
    overwrite: bool = False,
    run: bool = True,
    progress: Progress = no_progress,
) -> Report:
    """Writes a SavedModel whose chosen kernels are generated once, at load.

    Args:
      source: SavedModel directory; only read.
      destination: put in place once it is complete and verified.
      code_size: n_c; or a budget: of the model's parameters or bytes, or an error that
        no kernel may exceed.
      slice_shape: out, in, height, width of a slice; by default 16 x 16 channels and
        3x3 taps, or 1x1 where no chosen kernel has more.
      which: regular expression searched in site names; by default every convolution
        but the first.
      tags, signature: of the graph, and whose costs count.
      selector: chooses the code size for a budget, from the errors of all code sizes: a
        name, or EVBMF with settings of its own.
      inputs: to compare both models on; made up when None.
      overwrite: replace a SavedModel that is at `destination`.
      run: False for a model that is not to be trusted: it is never run, and the result is
        compared by structure alone.
      progress: told of every step.

    Raises:
      UserError: bad source or destination, or no kernel that can be generated.
      VerificationError: the result, read back, is not what it should be.
    """
    source, destination = Path(source), Path(destination)
    check_target(destination, source, overwrite)
    shapes = {key: value.shape for key, value in (inputs or {}).items()}
    opened = open_saved_model(source, tags, signature, shapes)
    inspection = opened.inspection
    variables = opened.table.variables
    constant = {k.name for k in opened.kernels if not any(root in variables for root in k.roots)}
    kept = _reasons(inspection.sites, which, constant)
    sites = [site for site in inspection.sites if site.name not in kept]
    if not sites:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(kept.items())[:3])
        raise UserError(f"{source} has no kernel to generate: {reasons or 'no convolution'}")
    kernels = [site.kernel for site in sites]
    shape = SliceShape(*slice_shape) if slice_shape else usual_shape(kernels)
    if isinstance(code_size, int):
        size = code_size
    else:
        chooser = registry.look_up("selector", selector) if isinstance(selector, str) else selector
        size = choose_code_size(sites, shape, code_size, inspection, chooser)
    made, errors = generate(kernels, shape, size)
    built = {site.name: one for site, one in zip(sites, made, strict=True)}
    told = dict(zip(built, errors, strict=True))
    settings = {
        "decompositions": [NAME],
        "selector": _name(selector) if isinstance(code_size, Budget) else None,
        "metric": "frobenius",
        "include": which,
        "budget": _budget_to_json(code_size),
    }
    return write_planned(
        opened, Plan(slice_verdicts(inspection, built, told, kept), settings), built,
        destination, inputs, tags,
        progress=progress, run=run,
    )  # fmt: skip


def _reasons(sites: Sequence[Site], which: str | None, constant: Collection[str]) -> dict[str, str]:
    """Returns site -> why its kernel stays."""
    kept: dict[str, str] = {}
    convolutions = [site for site in sites if site.kind in ("conv1d", "conv2d")]
    for site in sites:
        if site.kind not in ("conv1d", "conv2d"):
            kept[site.name] = "no convolution"
        elif which is None and site is convolutions[0]:
            kept[site.name] = "the first convolution"
        elif which is not None and not re.search(which, site.name):
            kept[site.name] = f"not chosen by {which!r}"
        elif site.name in constant:
            kept[site.name] = "its kernel is a constant, no variable"
    return kept


def _name(selector: str | EvbmfSelector) -> str:
    return selector if isinstance(selector, str) else "evbmf"


def _budget_to_json(wanted: int | Budget) -> dict:
    if isinstance(wanted, int):
        return {"kind": "code_size", "limit": wanted}
    keys = ("kind", "keep", "max_error", "limit")
    return {key: getattr(wanted, key) for key in keys if getattr(wanted, key) is not None}
