"""From an inspection to a plan."""

import dataclasses
from collections.abc import Sequence

from tfapprox import registry
from tfapprox.accounting.cost import Cost
from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.blas import for_each_site
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.factorizing import dense_verdict, takes_keras_model
from tfapprox.fitting import factorize, offer_candidates
from tfapprox.metrics import WEIGHTED_METRICS
from tfapprox.progress import Progress, no_progress
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.selection.evbmf import EvbmfSelector
from tfapprox.selection.greedy import Score, score_tables
from tfapprox.selection.latency_table import without_slow_rows
from tfapprox.selection.problem import CandidateTable, Configuration, Problem, Selection
from tfapprox.serving.model_latency import TimedModel
from tfapprox.serving.site_latency import measure_sites
from tfapprox.slice_planning import make_slice_plan


def make_plan(
    inspection: Inspection,
    config: CompressionConfig,
    spectra: SpectrumCache,
    progress: Progress = no_progress,
    timed: TimedModel | None = None,
    score: Score | None = None,
    tables: list[CandidateTable] | None = None,
) -> Plan:
    """Returns the plan that the config's selector makes for a model.

    Args:
      inspection: of the model.
      config: the budget and how to spend it.
      spectra: filled as needed.
      progress: told of every step.
      timed: the original's latency, where the config asks for measured latencies.
      score: evaluates the model with one site replaced, for the selector greedy.
      tables: what `offer_tables` returned for this model and a config with another
        budget or selector of the same metric; made anew when None.

    Raises:
      UserError: as `offer_tables`; the config asks for latencies without `timed` or for
        the selector greedy without `score`; or the budget is infeasible.
    """
    if config.generates:
        return make_slice_plan(inspection, config)
    if tables is None:
        tables = offer_tables(inspection, config, spectra, progress)
    admitted = _admitted(inspection, config)
    whole = inspection.cost
    if config.measures_latency:
        timed = _required(timed, config)
        tables = _time(admitted, tables, timed, config, spectra, progress)
        whole = dataclasses.replace(whole, latency=timed.nanoseconds)
    fixed = whole - sum((table.dense for table in tables), Cost())
    judged = tables
    if config.selector == "greedy":
        if score is None:
            raise UserError(
                "selector greedy evaluates the model: give labels (--labels), or from Python "
                "an evaluate function"
            )
        tables, judged = score_tables(admitted, tables, config.budget.kind, score, progress)
    problem = Problem(tuple(judged), config.budget.relative_to(whole), fixed)
    selection = _select(problem, config)
    by_name = {table.site: table for table in tables}
    verdicts = tuple(
        _verdict(site, by_name.get(site.name), selection, config) for site in inspection.sites
    )
    metric = metric_for(config, admitted)
    settings = {**config.to_json(), "metric": metric, "objective": selection.objective}
    if timed is not None:
        saved = sum((v.before.latency - v.after.latency for v in verdicts), 0)
        settings["latency"] = timed.prediction(saved).to_json()
    return Plan(verdicts, settings)


def offer_tables(
    inspection: Inspection,
    config: CompressionConfig,
    spectra: SpectrumCache,
    progress: Progress = no_progress,
) -> list[CandidateTable]:
    """Returns the candidates of every site that the config admits, in the order of the sites.

    Args: see `make_plan`.

    Raises:
      UserError: the model has no site, the filters admit none, or a kernel is not finite.
    """
    if config.pruning is not None:
        raise UserError(takes_keras_model(config.pruning))
    admitted = _admitted(inspection, config)
    metric = metric_for(config, admitted)
    return for_each_site(
        admitted,
        lambda site: _candidates(site, metric, config, spectra),
        lambda done: progress("planning", done, len(admitted)),
    )


def _admitted(inspection: Inspection, config: CompressionConfig) -> list[Site]:
    if not inspection.sites:
        raise UserError(f"the model has nothing to factorize: {_why_no_sites(inspection)}")
    admitted = [site for site in inspection.sites if config.admits(site.name)]
    if not admitted:
        raise UserError(
            f"--include {config.include!r} and --exclude {config.exclude!r} leave none of the "
            f"{len(inspection.sites)} sites; the first is called {inspection.sites[0].name!r}"
        )
    return admitted


def metric_for(config: CompressionConfig, sites: Sequence[Site]) -> str:
    """Returns the config's metric, or else the selector's, or that of the calibration data.

    Raises:
      UserError: the config asks for one that takes calibration data, and there are none.
    """
    calibrated = any(site.weight is not None for site in sites)
    if config.metric in WEIGHTED_METRICS and not calibrated:
        raise UserError(
            f"metric {config.metric} needs calibration data: give --calibration_data (and not "
            "--calibration none), or choose another"
        )
    if calibrated and config.metric is None and config.selector != "evbmf":
        return "output" if config.needs_sensitivities else "covariance"
    return config.metric or registry.SELECTOR_METRIC[config.selector]


def full_rank_plan(inspection: Inspection, decomposition: str = "svd") -> Plan:
    """Returns the plan that factorizes every site at full rank: it saves nothing and, but
    for rounding, changes nothing, which makes it the test of a rewrite."""
    method = registry.look_up("decomposition", decomposition)
    verdicts = [
        Verdict(site.name, site.kind, site.kernel.shape, method.full_rank(site), "", 0.0,
                site.cost, site.cost)
        for site in inspection.sites
    ]  # fmt: skip
    return Plan(tuple(verdicts), {"decompositions": [decomposition], "full_rank": True})


def keep_fastest(plan: Plan, count: int) -> Plan:
    """Returns the plan with only those sites replaced that are to save most time.

    Args:
      plan: its verdicts' measured latencies count.
      count: of the sites that stay replaced.
    """
    saved = {v.site: v.before.latency - v.after.latency for v in plan.verdicts if v.choice}
    best = set(sorted(saved, key=lambda site: saved[site], reverse=True)[:count])
    reason = "with this site replaced too, the whole model was measured to be slower"
    verdicts = tuple(
        dataclasses.replace(v, choice=None, reason=reason, error=0.0, after=v.before)
        if v.choice and v.site not in best
        else v
        for v in plan.verdicts
    )
    settings = dict(plan.settings)
    if "latency" in settings:
        lost = sum(saved[site] for site in saved if site not in best) / 1e6
        predicted = settings["latency"]
        settings["latency"] = {**predicted, "compressed": predicted["compressed"] + lost}
    return Plan(verdicts, settings, plan.version)


def cost_after(inspection: Inspection, plan: Plan) -> Cost:
    """Returns the whole model's cost once the plan is applied."""
    sites = sum((verdict.after for verdict in plan.verdicts), Cost())
    return _fixed_cost(inspection, list(inspection.sites)) + sites


def _candidates(
    site: Site, metric: str, config: CompressionConfig, spectra: SpectrumCache
) -> CandidateTable:
    if metric not in WEIGHTED_METRICS:
        site = dataclasses.replace(site, weight=None)
    tables = [
        offer_candidates(name, site, metric, config.candidates, spectra)
        for name in config.decompositions
    ]
    table = CandidateTable.join(tables)
    if metric == "output" and site.weight is not None:
        table = dataclasses.replace(table, error=table.error * site.weight.sensitivity, norm=1.0)
    spectra.trim(site, table.configurations)
    return table


def _select(problem: Problem, config: CompressionConfig) -> Selection:
    selector = registry.SELECTORS[config.selector]
    if isinstance(selector, EvbmfSelector):
        selector = EvbmfSelector(config.evbmf_weakening, config.evbmf_floor)
    return selector(problem)


def _required(timed: TimedModel | None, config: CompressionConfig) -> TimedModel:
    if timed is None:
        raise UserError(
            "a budget of latency, faster=True and the selector latency need the original's "
            "measured latency: compress a SavedModel (export a Keras model first)"
        )
    return timed


def _time(
    sites: list[Site],
    tables: list[CandidateTable],
    timed: TimedModel,
    config: CompressionConfig,
    spectra: SpectrumCache,
    progress: Progress,
) -> list[CandidateTable]:
    """Returns the tables with latencies; of another budget's, only what is faster."""

    def build(site: Site, choice: Configuration) -> Factorization:
        return factorize(site, choice, spectra)

    tables = measure_sites(sites, tables, build, timed.dense, timed.options, progress, timed.cache)
    if config.budget.kind == "latency":
        return tables  # there, what is not faster is no candidate anyway
    return [without_slow_rows(table) for table in tables]


def _fixed_cost(inspection: Inspection, admitted: list[Site]) -> Cost:
    return inspection.cost - sum((site.cost for site in admitted), Cost())


def _verdict(
    site: Site, table: CandidateTable | None, selection: Selection, config: CompressionConfig
) -> Verdict:
    if table is None:
        return dense_verdict(site, "left out by --include or --exclude")
    row = selection.rows[site.name]
    if row is None:
        reason = selection.reasons[site.name]
        if config.measures_latency and not len(table):
            reason = "no candidate is measurably faster here than the dense operation"
        return dense_verdict(site, reason, table.dense.latency)
    after = Cost(**{kind: int(column[row]) for kind, column in table.cost.items()})
    return Verdict(
        site.name, site.kind, site.kernel.shape, table.configurations[row], "",
        float(table.error[row]), table.dense, after,
    )  # fmt: skip


def _why_no_sites(inspection: Inspection) -> str:
    reasons = [f"{kept.name} ({kept.kind}): {kept.reason}" for kept in inspection.kept[:3]]
    return "; ".join(reasons) or "it has no matrix product or convolution with a static kernel"
