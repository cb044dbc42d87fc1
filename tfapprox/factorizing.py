"""From a plan to factorizations."""

import dataclasses
from collections.abc import Mapping

from tfapprox import registry
from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.decompositions.blas import threads_for
from tfapprox.decompositions.joint import build_joint
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.fitting import factorize
from tfapprox.metrics import WEIGHTED_METRICS
from tfapprox.progress import Progress, no_progress
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import Plan, Verdict


def factorize_plan(
    inspection: Inspection,
    plan: Plan,
    spectra: SpectrumCache,
    progress: Progress = no_progress,
) -> tuple[Plan, dict[str, Factorization]]:
    """Returns the plan with its costs counted on the built stages, and those stages by site.

    The plan may come from a file: nothing in it is trusted but the choices. A site
    it does not name stays dense.

    Raises:
      UserError: the plan names a site the model lacks, a kernel of another shape,
        an unknown decomposition, or settings that do not fit the site.
    """
    _check_plan(inspection, plan)
    planned = {verdict.site: verdict for verdict in plan.verdicts}
    sites = [(site, planned.get(site.name)) for site in inspection.sites]
    joint = build_joint([(site, v.choice) for site, v in sites if v is not None and v.choice])
    factorizations: dict[str, Factorization] = {}
    verdicts = []
    for done, site in enumerate(inspection.sites):
        progress("factorizing", done, len(inspection.sites))
        verdict = planned.get(site.name) or dense_verdict(site, "not in the plan")
        if verdict.choice is None:
            reason = verdict.reason or "the plan keeps it dense"
            verdicts.append(dense_verdict(site, reason, verdict.before.latency))
            continue
        with threads_for(site):
            built = joint.get(site.name) or factorize(site, verdict.choice, spectra)
        factorizations[site.name] = built
        if site.weight is not None and _can_measure(site, plan):
            verdict = dataclasses.replace(verdict, error=_error(site, built, plan))
        after = built.cost(site.geometries)
        verdicts.append(
            dataclasses.replace(
                verdict,
                kind=site.kind,
                before=dataclasses.replace(site.cost, latency=verdict.before.latency),
                after=dataclasses.replace(after, latency=verdict.after.latency),
                reason="",
            )
        )
    progress("factorizing", len(inspection.sites), len(inspection.sites))
    return dataclasses.replace(plan, verdicts=tuple(verdicts)), factorizations


def dense_verdict(site: Site, reason: str, latency: int = 0) -> Verdict:
    """Returns the verdict on a site that stays as it is.

    Args:
      site: of the model.
      reason: why it stays.
      latency: measured, of its dense operation; 0 if none was.
    """
    shape, cost = site.kernel.shape, dataclasses.replace(site.cost, latency=latency)
    return Verdict(site.name, site.kind, shape, None, reason, 0.0, cost, cost)


def takes_keras_model(method: str) -> str:
    """Returns the refusal of a pruning method where channels around a layer can't be removed."""
    return (
        f"{method} removes channels from the layers around them, which takes a Keras model: "
        "compress that (tfapprox.compress_model) and export it, or choose a decomposition"
    )


def _check_plan(inspection: Inspection, plan: Plan) -> None:
    sites: Mapping[str, Site] = {site.name: site for site in inspection.sites}
    for verdict in plan.verdicts:
        if verdict.choice is not None and verdict.choice.decomposition in registry.PRUNINGS:
            raise UserError(takes_keras_model(verdict.choice.decomposition))
        site = sites.get(verdict.site)
        if site is None:
            raise UserError(
                f"the plan names site {verdict.site!r}, which this model lacks; "
                "make a plan from this model with --save_plan"
            )
        if tuple(verdict.kernel_shape) != site.kernel.shape:
            raise UserError(
                f"the plan has kernel shape {list(verdict.kernel_shape)} for site {site.name!r}, "
                f"the model {list(site.kernel.shape)}; make a plan from this model with --save_plan"
            )


def _can_measure(site: Site, plan: Plan) -> bool:
    """Says whether an error in the plan's metric can be told from the built kernel.

    Where data know only the outputs' moment it can't, but the error foreseen is exact there.
    """
    blind = site.weight is not None and site.weight.inputs is None
    outputs_only = blind and site.weight is not None and site.weight.outputs is not None
    return not (outputs_only and plan.settings.get("metric", "covariance") in WEIGHTED_METRICS)


def _error(site: Site, built: Factorization, plan: Plan) -> float:
    """Returns the relative error of what was built, in the plan's metric."""
    name = plan.settings.get("metric", "covariance")
    metric = registry.look_up("metric", name)
    lost = metric.distance(site, built.reconstruct()) / (
        metric.site_norm(site, SpectrumCache()) or 1.0
    )
    assert site.weight is not None
    return lost * site.weight.sensitivity if name == "output" else lost
