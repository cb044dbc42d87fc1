"""The code size of a slice generator, chosen by a selector: one table for all kernels together.

A generator is shared, so a selector sees one site: all chosen kernels, a row for each code
size, and the largest error of any kernel as the error of a row.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tfapprox import registry
from tfapprox.accounting.cost import Cost
from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.evbmf import evbmf_rank
from tfapprox.decompositions.generated import (
    NAME,
    GeneratedStage,
    configuration,
    generate,
    usual_shape,
)
from tfapprox.decompositions.slice_generator import SliceShape, shared_curve
from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.selection.evbmf import EvbmfSelector
from tfapprox.selection.frontier import COST_WORDS
from tfapprox.selection.greedy import select_greedy
from tfapprox.selection.latency import select_latency
from tfapprox.selection.problem import Budget, CandidateTable, Problem, Selector

ALL = "all generated kernels"
_SAVED = ("params", "bytes")
_LEAST_ERROR = 1e-12  # rounding, for a bound of 0


def make_slice_plan(inspection: Inspection, config: CompressionConfig) -> Plan:
    """Returns the plan in which one generator makes all convolution kernels that are admitted.

    Without `include`, the first convolution stays.

    Raises:
      UserError: no kernel to generate, or a budget that is out of reach.
    """
    kept = reasons_to_keep(inspection.sites, config)
    sites = [site for site in inspection.sites if site.name not in kept]
    if not sites:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(kept.items())[:3])
        raise UserError(f"the model has no kernel to generate: {reasons or 'no convolution'}")
    kernels = [site.kernel for site in sites]
    given = config.candidates.slice_shape
    shape = SliceShape(*given) if given else usual_shape(kernels)
    selector = registry.SELECTORS[config.selector]
    if isinstance(selector, EvbmfSelector):
        selector = EvbmfSelector(config.evbmf_weakening, config.evbmf_floor)
    size = choose_code_size(sites, shape, config.budget, inspection, selector)
    made, errors = generate(kernels, shape, size)
    built = {site.name: one for site, one in zip(sites, made, strict=True)}
    verdicts = slice_verdicts(inspection, built, dict(zip(built, errors, strict=True)), kept)
    return Plan(verdicts, {**config.to_json(), "metric": "frobenius", "objective": max(errors)})


def reasons_to_keep(sites: Sequence[Site], config: CompressionConfig) -> dict[str, str]:
    """Returns site -> why its kernel is not generated."""
    kept: dict[str, str] = {}
    convolutions = [site for site in sites if site.kind in ("conv1d", "conv2d")]
    for site in sites:
        if site.kind not in ("conv1d", "conv2d"):
            kept[site.name] = "no convolution"
        elif not config.admits(site.name):
            kept[site.name] = "left out by --include or --exclude"
        elif not config.include and site is convolutions[0]:
            kept[site.name] = "the first convolution"
    return kept


def choose_code_size(
    sites: Sequence[Site],
    shape: SliceShape,
    budget: Budget,
    inspection: Inspection,
    selector: Selector,
) -> int:
    """Returns the code size that a selector takes from the errors of all code sizes.

    Args:
      sites: whose kernels are generated.
      shape: of the slices.
      budget: of the whole model's parameters or bytes, or a bound on every kernel's error.
      inspection: of the model.
      selector: which sees all sites as one.

    Raises:
      UserError: a budget that a generator does not save, or out of reach, or a selector
        that can't choose from such a table.
    """
    _check(budget, selector)
    table = shared_table(sites, shape)
    if budget.max_error is not None and budget.kind not in _SAVED:
        budget = dataclasses.replace(budget, kind="params")
    fixed = inspection.cost - table.dense
    problem = Problem((table,), budget.relative_to(inspection.cost), fixed)
    try:
        row = selector(problem).rows[ALL]
    except InfeasibleBudgetError as error:
        least = np.ceil(error.floor * 1e4) / 1e4
        raise InfeasibleBudgetError(
            f"keeping {problem.budget.keep:g} of the {COST_WORDS[budget.kind]} is out of reach: "
            f"{least:.4f} is the least that these kernels and slices can reach; ask for "
            f"--keep_{budget.kind} {least:.4f} or more, admit more kernels (--include), or give "
            "another --slice_shape",
            error.floor,
        ) from error
    if row is None and budget.max_error is not None:
        row = int(np.argmax(table.error <= max(budget.max_error, _LEAST_ERROR)))
    if row is None:
        raise UserError(
            "nothing to do: the budget leaves room to keep all kernels as they are; keep less"
        )
    return table.configurations[row].settings["code_size"]


def _check(budget: Budget, selector: Selector) -> None:
    """Refuses what a generator does not save, and who can't choose for it.

    Raises:
      UserError: naming what it saves, or the way out.
    """
    if selector is select_greedy:
        raise UserError(
            f"selector greedy scores sites one by one, and {NAME} is shared by all: use alds"
        )
    if selector is select_latency:
        raise UserError(f"selector latency saves time, and {NAME} saves none: use alds")
    if budget.max_error is None and budget.kind not in _SAVED:
        raise UserError(
            "a slice generator saves parameters, no multiply-adds: give a share of the "
            "parameters (--keep_params) or of the bytes, or an error (--max_error)"
        )


def shared_table(sites: Sequence[Site], shape: SliceShape) -> CandidateTable:
    """Returns the one table of all sites, a row for each code size."""
    curve = shared_curve([site.kernel for site in sites], shape)
    dense = sum((site.cost for site in sites), Cost())
    sizes = np.arange(1, shape.size + 1)
    params = sizes * (shape.size + curve.slices)
    itemsize = max(site.kernel.dtype.itemsize for site in sites)
    cost: Mapping = {
        "params": params,
        "macs": np.full(len(sizes), dense.macs),
        "bytes": params * itemsize,
    }
    sides = curve.slices, shape.size
    noise = {"code_size": evbmf_rank(curve.values[: min(sides)], sides)}
    norm = float(np.sqrt(np.sum(np.square(curve.values))))
    rows = [configuration(shape, int(size)) for size in sizes]
    return CandidateTable(ALL, rows, curve.errors, cost, dense, norm, [noise] * len(rows))


def slice_verdicts(
    inspection: Inspection,
    built: Mapping[str, Factorization],
    errors: Mapping[str, float],
    kept: Mapping[str, str],
) -> tuple[Verdict, ...]:
    """Returns a verdict for each site: generated, or kept for a reason."""
    verdicts = []
    for site in inspection.sites:
        one = built.get(site.name)
        if one is None:
            verdict = Verdict(
                site.name, site.kind, site.kernel.shape, None, kept[site.name], 0.0,
                site.cost, site.cost,
            )  # fmt: skip
        else:
            (stage,) = one.stages
            assert isinstance(stage, GeneratedStage)
            shape = SliceShape(*(stage.generator.shape[i] for i in (4, 3, 1, 2)))
            choice = configuration(shape, len(stage.generator))
            verdict = Verdict(
                site.name, site.kind, site.kernel.shape, choice, "", errors[site.name],
                site.cost, one.cost(site.geometries),
            )  # fmt: skip
        verdicts.append(verdict)
    return tuple(verdicts)
