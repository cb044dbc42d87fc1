"""CP: a convolution as 1x1, Hx1 and 1xW per channel, and 1x1 again."""

import numpy as np

from tfapprox.accounting.cost import StageShape, chain_cost
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site
from tfapprox.decompositions.canonical import Terms, fit_terms, orthogonal_terms
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.pointwise import (
    is_pointwise,
    pointwise_candidates,
    pointwise_factorize,
)
from tfapprox.decompositions.spectra import SpectrumCache, check_finite
from tfapprox.decompositions.table import built_table, checked_settings, ranks_below, saves
from tfapprox.selection.problem import CandidateTable, Configuration

_ROWS = 8  # ranks that are fitted and measured
_GROWTH = 4.0  # of the sensitivity, at most, over that of orthogonal terms


class CpDecomposition:
    """W ~ sum of R outer products over height, width, input and output channels.

    Four stages: 1x1 from I to R channels, H x 1 and 1 x W on every channel by itself,
    1x1 to O; a kernel with one row or one column of taps needs three, a 1x1 kernel is
    a matrix and gets the truncated SVD. The rank may exceed the number of channels.

    Every rank starts from the largest orthogonal terms, whose errors are known at
    once and fall with the rank, and is improved by least squares as long as no large
    terms begin to cancel (see `canonical`). The table's errors are those of the fit,
    at 8 ranks from small to just worth it.

    References:
      Lebedev et al. 2015, Section 3; Phan et al. 2020 for stability.
    """

    def candidates(
        self, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
    ) -> CandidateTable:
        """Returns ranks evenly spaced in their logarithm, as long as they save something.

        Raises:
          UserError: the kernel has NaN or infinite entries.
        """
        if is_pointwise(site):
            return pointwise_candidates(site, metric, options, spectra, _configuration)
        check_finite(site)
        full = self.full_rank(site).settings["rank"]
        ranks = ranks_below(full, options.rank_multiple)
        ranks = ranks[saves(chain_cost(_shapes(site, ranks), site.geometries, 1), site.cost)]
        if len(ranks):
            places = np.geomspace(1, len(ranks), min(_ROWS, len(ranks))).round().astype(int) - 1
            ranks = ranks[np.unique(places)]
        start = orthogonal_terms(_kernel(site), int(ranks.max(initial=1)))
        return built_table(
            site,
            metric,
            spectra,
            [_configuration(int(rank)) for rank in ranks],
            lambda row: self.factorize(site, row, spectra, start),
        )

    def full_rank(self, site: Site) -> Configuration:
        """Returns the rank H W min(I, O), at which orthogonal terms make up any kernel."""
        height, width = site.kernel_size
        return _configuration(height * width * min(site.in_channels, site.out_channels))

    def factorize(
        self,
        site: Site,
        configuration: Configuration,
        spectra: SpectrumCache,
        start: Terms | None = None,
    ) -> Factorization:
        """Returns the stages; every term has the same norm in all of them.

        Args:
          start: this site's orthogonal terms, at least as many, if they are known already.

        Raises:
          UserError: the rank does not fit the site; the message has the accepted range.
        """
        full = self.full_rank(site).settings["rank"]
        (rank,) = checked_settings(site, configuration, {"rank": range(1, full + 1)})
        if is_pointwise(site):
            return pointwise_factorize(site, rank, spectra)
        check_finite(site)
        kernel = _kernel(site)
        start = orthogonal_terms(kernel, rank) if start is None else start.leading(rank)
        return _stages(fit_terms(kernel, start, _GROWTH), site.kernel.dtype)


def _kernel(site: Site) -> np.ndarray:
    return site.kernel.astype(np.result_type(np.float32, site.kernel.dtype), copy=False)


def _stages(terms: Terms, dtype: np.dtype) -> Factorization:
    rank = terms.inputs.shape[1]
    if min(len(terms.height), len(terms.width)) == 1:
        middle = [Stage((terms.height[:, None] * terms.width)[:, :, None], rank)]
    else:
        middle = [
            Stage(terms.height[:, None, None], rank, (True, False)),
            Stage(terms.width[None, :, None], rank, (False, True)),
        ]
    first = Stage(terms.inputs[None, None], axes=(False, False))
    last = Stage(terms.outputs.T[None, None], axes=(False, False))
    return Factorization(
        tuple(
            Stage(np.ascontiguousarray(stage.kernel, dtype), stage.groups, stage.axes)
            for stage in (first, *middle, last)
        )
    )


def _shapes(site: Site, rank: np.ndarray) -> list[StageShape]:
    """Returns the stages' shapes, for an array of ranks at once."""
    height, width = site.kernel_size
    per_channel = [StageShape((height, width), rank, rank, rank)]  # type: ignore[arg-type]
    if min(height, width) > 1:
        per_channel = [
            StageShape((height, 1), rank, rank, rank, (True, False)),  # type: ignore[arg-type]
            StageShape((1, width), rank, rank, rank, (False, True)),  # type: ignore[arg-type]
        ]
    first = StageShape((1, 1), site.in_channels, rank, 1, (False, False))  # type: ignore[arg-type]
    last = StageShape((1, 1), rank, site.out_channels, 1, (False, False))  # type: ignore[arg-type]
    return [first, *per_channel, last]


def _configuration(rank: int) -> Configuration:
    return Configuration("cp", {"rank": rank})
