"""Spectra thinned out for a report."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import Plan

_MAX_POINTS = 64


@dataclasses.dataclass(frozen=True)
class SiteSpectrum:
    """Singular values of one site's unfolded kernel.

    Attributes:
      site: its name.
      scheme: of the unfolding.
      ranks: positions of the values, from 1; at most 64, evenly spread.
      values: singular values relative to the largest; with several channel slices
        the root mean square over them.
      full_rank: number of singular values.
      rank: the one chosen, or None when the site is kept dense.
    """

    site: str
    scheme: int
    ranks: tuple[int, ...]
    values: tuple[float, ...]
    full_rank: int
    rank: int | None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "SiteSpectrum":
        return cls(**{**body, "ranks": tuple(body["ranks"]), "values": tuple(body["values"])})


def collect_spectra(
    inspection: Inspection, plan: Plan, spectra: SpectrumCache
) -> tuple[SiteSpectrum, ...]:
    """Returns the spectra of the sites that the planning looked at; computes none anew.

    Args:
      inspection: where the kernels are.
      plan: what was chosen: a site kept dense shows scheme 0 in one slice.
      spectra: the cache that the planning used.
    """
    found = []
    for site in inspection.sites:
        choice = plan.choices.get(site.name)
        settings = choice.settings if choice is not None else {}
        scheme, slices = settings.get("scheme", 0), settings.get("slices", 1)
        if not spectra.holds(site, scheme, slices):
            continue
        values = spectra.singular_values(site, scheme, slices)
        found.append(_thin(site.name, scheme, values, settings.get("rank")))
    return tuple(found)


def _thin(site: str, scheme: int, values: np.ndarray, rank: int | None) -> SiteSpectrum:
    curve = np.sqrt(np.mean(np.square(values), axis=0))
    curve = curve / (curve[0] or 1.0)
    spread = np.linspace(0, len(curve) - 1, min(_MAX_POINTS, len(curve)))
    places = np.unique(np.round(spread).astype(int))
    return SiteSpectrum(
        site,
        scheme,
        tuple(int(i) + 1 for i in places),
        tuple(float(f"{curve[i]:.4g}") for i in places),
        len(curve),
        rank,
    )
