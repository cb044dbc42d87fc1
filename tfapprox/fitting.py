"""Candidates and factorizations of a site, fitted to its calibration data where it has any."""

import dataclasses
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

from tfapprox import registry
from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.pointwise import is_pointwise
from tfapprox.decompositions.refitting import refit
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.table import built_table
from tfapprox.selection.greedy import Score, ScoreCache
from tfapprox.selection.problem import CandidateTable, Configuration

_POINTWISE_SVD = ("cp", "tucker2")  # what they are for a 1x1 kernel


def offer_candidates(
    name: str, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
) -> CandidateTable:
    """Returns a decomposition's candidates for a site, each error as its fit will have it.

    Args:
      name: of the decomposition.
      site: with a weight, if the metric asks for one.
      metric: what the errors mean.
      options, spectra: see `Decomposition.candidates`.
    """
    method = registry.look_up("decomposition", name)
    if site.weight is None or not _is_svd(name, site) or _has_closed_form(name, site):
        return method.candidates(site, metric, options, spectra)
    plain = dataclasses.replace(site, weight=None)
    table = method.candidates(plain, "frobenius", options, spectra)
    rows, noise = table.configurations, table.noise_ranks
    return built_table(
        site, metric, spectra, rows, lambda row: method.factorize(plain, row, spectra), noise
    )


def factorize(site: Site, choice: Configuration, spectra: SpectrumCache) -> Factorization:
    """Returns the stages of a configuration, fitted to the site's weight if it has one.

    Raises:
      UserError: an unknown decomposition, or settings that do not fit the site.
    """
    method = registry.look_up("decomposition", choice.decomposition)
    if site.weight is None or _has_closed_form(choice.decomposition, site):
        return method.factorize(site, choice, spectra)
    built = method.factorize(dataclasses.replace(site, weight=None), choice, spectra)
    if site.weight.inputs is None and site.weight.outputs is not None:
        return built  # outputs alone do not say what another structure would give
    return refit(site.kernel, built, site.weight)


def _has_closed_form(name: str, site: Site) -> bool:
    assert site.weight is not None
    moments = site.weight.inputs is not None or site.weight.outputs is not None
    return moments and _is_svd(name, site)


def _is_svd(name: str, site: Site) -> bool:
    """Says whether truncated SVDs are what a decomposition offers for a site."""
    return name == "svd" or (name in _POINTWISE_SVD and is_pointwise(site))


def make_score(
    sites: Sequence[Site],
    evaluate_with: Callable[[dict[str, Factorization]], float],
    scores: str | PathLike[str] | None,
    fitted_to: str = "",
) -> Score:
    """Returns the score of the whole model with one site replaced, for the selector greedy.

    Args:
      sites: of the model.
      evaluate_with: score of the model with these sites replaced; of itself with none.
      scores: JSON file that remembers what was evaluated, or None.
      fitted_to: see `ScoreCache`.
    """
    spectra = SpectrumCache()

    def score(site: Site | None, choice: Configuration | None) -> float:
        if site is None or choice is None:
            return evaluate_with({})
        return evaluate_with({site.name: factorize(site, choice, spectra)})

    return score if scores is None else ScoreCache(score, sites, Path(scores), fitted_to)
