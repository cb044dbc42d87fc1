"""Truncated SVD of the channel slices of an unfolded kernel: two smaller convolutions."""

from collections.abc import Mapping

import numpy as np

from tfapprox.accounting.cost import Cost, StageShape, chain_cost
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site
from tfapprox.decompositions.evbmf import evbmf_rank
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import Spectrum, SpectrumCache
from tfapprox.decompositions.unfolding import (
    SCHEMES,
    distinct_schemes,
    fold_left,
    fold_right,
    held_taps,
    left_axes,
    matrix_shape,
    right_axes,
)
from tfapprox.decompositions.weighted_svd import (
    WeightedSvd,
    weighted_svd,
    weighted_svd_of_outputs,
)
from tfapprox.errors import UserError
from tfapprox.metrics import METRICS
from tfapprox.selection.problem import CandidateTable, Configuration

_SETTINGS = ("scheme", "slices", "rank")


class SvdDecomposition:
    """W_i ~ L_i R_i^T for each of k slices of input channels.

    The first stage, R, is a convolution in k groups from the I input channels to
    k rank; the second, L, one without groups to the O output channels. Settings:
    `scheme` (see `unfolding`), `slices` (k) and `rank` (of each slice).

    References:
      Liebenwein et al. 2021, Section 2 and supplement; with k = 1, scheme 0 is
      Denton et al. 2014, Section 3.2 (SVD), and schemes 1 and 2 are Jaderberg et al.
      2014, Scheme 2, in closed form.
    """

    def candidates(
        self, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
    ) -> CandidateTable:
        """Returns every (scheme, slices, rank) that saves parameters or MACs.

        Ranks are multiples of `options.rank_multiple`; where no multiple saves
        anything, the powers of two below it.

        Raises:
          UserError: the kernel has NaN or infinite entries.
        """
        measure = METRICS[metric]
        norm = measure.site_norm(site, spectra)
        configurations: list[Configuration] = []
        errors, costs = [np.empty(0)], [np.empty((3, 0), np.int64)]
        noise_ranks: list[Mapping[str, int]] = []
        for scheme in distinct_schemes(site.kernel_size, options.schemes):
            for slices in options.slices:
                if site.in_channels % slices:
                    continue
                ranks, cost = _saving_ranks(site, scheme, slices, options.rank_multiple)
                if not len(ranks):
                    continue
                if site.weight is not None:
                    if not _has_closed_form(site, scheme, slices):
                        continue
                    noise: Mapping[str, int] = {}
                    residuals = _weighted(site, scheme, slices, ranks[-1]).residual_norms(ranks)
                else:
                    spectrum = spectra.spectrum(site, scheme, slices)
                    noise = _noise_rank(site, spectrum)
                    residuals = measure.residual_norms(spectrum, ranks)
                errors.append(_ratio(residuals, norm))
                costs.append(cost)
                configurations += [_configuration(scheme, slices, int(rank)) for rank in ranks]
                noise_ranks += [noise] * len(ranks)
        params, macs, size = np.concatenate(costs, axis=1)
        columns: Mapping = {"params": params, "macs": macs, "bytes": size}
        return CandidateTable(
            site.name,
            configurations,
            np.concatenate(errors),
            columns,
            site.cost,
            norm,
            noise_ranks,
        )

    def full_rank(self, site: Site) -> Configuration:
        """Returns scheme 0, one slice, at full rank."""
        return _configuration(0, 1, min(matrix_shape(site.kernel.shape, scheme=0)))

    def factorize(
        self, site: Site, configuration: Configuration, spectra: SpectrumCache
    ) -> Factorization:
        """Returns the two stages; the singular values are split evenly between them.

        With a weight they are the best for it; see `weighted_svd`.

        Raises:
          UserError: the settings do not fit the site; the message has the accepted range.
        """
        scheme, slices, rank = _checked_settings(site, configuration.settings)
        dtype = site.kernel.dtype
        if site.weight is not None and _has_closed_form(site, scheme, slices):
            return _weighted(site, scheme, slices, rank).factorization(rank, dtype)
        left, right = spectra.spectrum(site, scheme, slices, rank).factors(rank)
        first = fold_right(right, site.kernel_size, scheme).astype(dtype, copy=False)
        second = fold_left(left, site.kernel_size, scheme).astype(dtype, copy=False)
        return Factorization(
            (
                Stage(np.ascontiguousarray(first), slices, right_axes(scheme)),
                Stage(np.ascontiguousarray(second), 1, left_axes(scheme)),
            )
        )


def _has_closed_form(site: Site, scheme: int, slices: int) -> bool:
    """Says whether the data known of the site suffice for the weighted fit."""
    assert site.weight is not None
    known = site.weight.inputs is not None
    return known or (site.weight.outputs is not None and scheme == 0 and slices == 1)


def _weighted(site: Site, scheme: int, slices: int, most: int) -> WeightedSvd:
    assert site.weight is not None
    if site.weight.inputs is not None:
        return weighted_svd(site.kernel, site.weight.inputs, scheme, slices, int(most))
    assert site.weight.outputs is not None
    return weighted_svd_of_outputs(site.kernel, site.weight.outputs, int(most))


def _configuration(scheme: int, slices: int, rank: int) -> Configuration:
    return Configuration("svd", {"scheme": scheme, "slices": slices, "rank": rank})


def _noise_rank(site: Site, spectrum: Spectrum) -> Mapping[str, int]:
    """Returns the EVBMF rank by the setting's name; of whole unfoldings only, not of slices."""
    if spectrum.slices > 1:
        return {}
    return {
        "rank": evbmf_rank(spectrum.values[0], matrix_shape(site.kernel.shape, spectrum.scheme))
    }


def _ratio(residuals: np.ndarray, norm: float) -> np.ndarray:
    """Returns relative errors; a kernel of zeros is met exactly by any rank."""
    return residuals / norm if norm > 0 else np.zeros_like(residuals)


def _saving_ranks(
    site: Site, scheme: int, slices: int, multiple: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ranks that cost fewer parameters or MACs than the dense kernel.

    Returns:
      ranks, int64 [n] ascending, and their params, MACs and bytes, int64 [3, n].
    """
    full = min(matrix_shape(site.kernel.shape, scheme, slices))
    unit, dense = _cost_of_one_rank(site, scheme, slices), site.cost
    powers = 2 ** np.arange((multiple - 1).bit_length())
    for ranks in (np.arange(multiple, full + 1, multiple), powers[powers <= full]):
        saves = (ranks * unit.params < dense.params) | (ranks * unit.macs < dense.macs)
        if np.any(saves):
            break
    ranks = ranks[saves]
    return ranks, np.array([[unit.params], [unit.macs], [unit.bytes]]) * ranks


def _cost_of_one_rank(site: Site, scheme: int, slices: int) -> Cost:
    """Returns what each rank costs: every entry and MAC of both stages has one."""
    first_axes, second_axes = right_axes(scheme), left_axes(scheme)
    first = StageShape(
        held_taps(site.kernel_size, first_axes), site.in_channels, slices, slices, first_axes
    )
    second = StageShape(
        held_taps(site.kernel_size, second_axes), slices, site.out_channels, 1, second_axes
    )
    return chain_cost([first, second], site.geometries, site.kernel.dtype.itemsize)


def _checked_settings(site: Site, settings: Mapping[str, int]) -> tuple[int, int, int]:
    if set(settings) != set(_SETTINGS):
        raise UserError(
            f"site {site.name}: svd takes the settings {', '.join(_SETTINGS)}, "
            f"got {', '.join(map(str, settings)) or 'none'}"
        )
    scheme, slices, rank = (settings[name] for name in _SETTINGS)
    if scheme not in SCHEMES:
        raise UserError(f"site {site.name}: svd scheme must be among {SCHEMES}, got {scheme}")
    if slices < 1 or site.in_channels % slices:
        raise UserError(
            f"site {site.name}: svd slices must divide the {site.in_channels} input channels, "
            f"got {slices}"
        )
    full = min(matrix_shape(site.kernel.shape, scheme, slices))
    if not 1 <= rank <= full:
        raise UserError(f"site {site.name}: svd rank must be from 1 to {full}, got {rank}")
    return scheme, slices, rank
