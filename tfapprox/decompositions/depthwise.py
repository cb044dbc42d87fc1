"""Network decoupling: pointwise, then depthwise, in a few parallel terms."""

import numpy as np

from tfapprox.accounting.cost import StageShape, chain_cost
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache, check_finite
from tfapprox.decompositions.table import built_table, checked_settings, saves
from tfapprox.selection.problem import CandidateTable, Configuration


class DepthwiseDecomposition:
    """Every filter W_o [I, H W] is a sum of T products of colours and patterns.

    A 1x1 stage makes T maps for each output channel; an H x W stage with O groups
    filters them and sums over the T, so that the parallel paths of the paper need no
    addition of their own (with T = 1 it is a plain depthwise convolution). The
    truncated SVD of every filter is optimal, and exact at T = min(I, H W).

    The other order, depthwise then pointwise, is not here because the SVD has it
    already: scheme 0 with as many slices as input channels and rank T.

    References:
      Guo, Li, Lin, Chen, Li: Network Decoupling: From Regular to Depthwise Separable
        Convolutions, 2018, Section 3.2 (both orders, exactness).
      Elhoushi et al. 2021, Figure 2d.
    """

    def candidates(
        self, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
    ) -> CandidateTable:
        """Returns every number of terms that saves something: none for a 1x1 kernel.

        Raises:
          UserError: the kernel has NaN or infinite entries.
        """
        check_finite(site)
        rows = []
        for rank in range(1, _most_terms(site) + 1):
            shapes = [
                StageShape((1, 1), site.in_channels, site.out_channels * rank, 1, (False, False)),
                StageShape(
                    site.kernel_size,
                    site.out_channels * rank,
                    site.out_channels,
                    site.out_channels,
                ),
            ]
            cost = chain_cost(shapes, site.geometries, site.kernel.dtype.itemsize)
            if saves(cost, site.cost):
                rows.append(_configuration(rank))
        return built_table(
            site, metric, spectra, rows, lambda row: self.factorize(site, row, spectra)
        )

    def full_rank(self, site: Site) -> Configuration:
        """Returns min(I, H W) terms."""
        return _configuration(_most_terms(site))

    def factorize(
        self, site: Site, configuration: Configuration, spectra: SpectrumCache
    ) -> Factorization:
        """Returns the two stages; singular values are split evenly.

        Raises:
          UserError: the number of terms does not fit; the message has the accepted range.
        """
        accepted = {"rank": range(1, _most_terms(site) + 1)}
        (rank,) = checked_settings(site, configuration, accepted)
        check_finite(site)
        colours, patterns = filter_factors(site.kernel, rank)
        height, width, in_channels, out_channels = site.kernel.shape
        first = colours.transpose(1, 0, 2).reshape(1, 1, in_channels, out_channels * rank)
        second = patterns.transpose(2, 1, 0).reshape(height, width, rank, out_channels)
        dtype = site.kernel.dtype
        return Factorization(
            (
                Stage(np.ascontiguousarray(first, dtype), axes=(False, False)),
                Stage(np.ascontiguousarray(second, dtype), groups=out_channels),
            )
        )


def filter_factors(kernel: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns colours [O, I, rank] and patterns [O, rank, H W] of every filter by itself."""
    taps = kernel.reshape(-1, *kernel.shape[2:])
    filters = taps.transpose(2, 1, 0).astype(np.result_type(np.float32, kernel.dtype))
    left, values, right = np.linalg.svd(filters, full_matrices=False)
    roots = np.sqrt(values[:, :rank])
    return left[:, :, :rank] * roots[:, None], right[:, :rank] * roots[:, :, None]


def _most_terms(site: Site) -> int:
    return min(site.in_channels, site.kernel_size[0] * site.kernel_size[1])


def _configuration(rank: int) -> Configuration:
    return Configuration("depthwise", {"rank": rank})
