"""Monochromatic filters: every output channel sees one of a few mixed colours."""

import numpy as np

from tfapprox.accounting.cost import StageShape, chain_cost
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site
from tfapprox.decompositions.clustering import balanced_clusters
from tfapprox.decompositions.depthwise import filter_factors
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache, check_finite
from tfapprox.decompositions.table import built_table, checked_settings, saves
from tfapprox.errors import UserError
from tfapprox.selection.problem import CandidateTable, Configuration


class MonochromaticDecomposition:
    """1x1 from I channels to C' colours, then O / C' one-channel filters on each colour.

    Every filter W_o [I, H W] is nearly one colour u_o times a pattern. The colours fall
    into C' equally large clusters; all filters of a cluster then share one colour c and
    keep the patterns c^T W_o. Meant for first layers, where a few colours say it all.

    We depart from the paper in the shared colour: it takes the mean of the cluster, we
    the direction that keeps most of the cluster's energy, which is never worse.

    References:
      Denton et al. 2014, Section 3.1 and supplement, Table 4.
    """

    def candidates(
        self, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
    ) -> CandidateTable:
        """Returns every number of colours that divides O and saves something.

        Raises:
          UserError: the kernel has NaN or infinite entries.
        """
        check_finite(site)
        rows = []
        for colors in _divisors(site.out_channels):
            shapes = stage_shapes(site, colors)
            cost = chain_cost(shapes, site.geometries, site.kernel.dtype.itemsize)
            if saves(cost, site.cost):
                rows.append(Configuration("monochromatic", {"colors": colors}))
        return built_table(
            site, metric, spectra, rows, lambda row: self.factorize(site, row, spectra)
        )

    def full_rank(self, site: Site) -> Configuration:
        """Returns a colour for each filter.

        Raises:
          UserError: filters of several channels and taps have more than one colour.
        """
        if site.in_channels > 1 and site.kernel_size != (1, 1):
            raise UserError(
                f"site {site.name}: monochromatic filters can't reproduce a kernel of shape "
                f"{list(site.kernel.shape)} exactly; the like that can is depthwise"
            )
        return Configuration("monochromatic", {"colors": site.out_channels})

    def factorize(
        self, site: Site, configuration: Configuration, spectra: SpectrumCache
    ) -> Factorization:
        """Returns the two stages; the second one's outputs are sorted by colour.

        Raises:
          UserError: the number of colours does not divide O, naming those that do.
        """
        accepted = {"colors": _divisors(site.out_channels)}
        (colors,) = checked_settings(site, configuration, accepted)
        check_finite(site)
        height, width, in_channels, out_channels = site.kernel.shape
        clusters = balanced_clusters(filter_colours(site.kernel), colors)
        taps = site.kernel.reshape(-1, in_channels, out_channels)
        taps = taps.astype(np.result_type(np.float32, taps.dtype), copy=False)
        palette = np.stack([_shared_colour(taps[..., members]) for members in clusters], axis=1)
        patterns = [
            np.einsum("tio,i->to", taps[..., members], palette[:, color])
            for color, members in enumerate(clusters)
        ]
        second = np.concatenate(patterns, axis=1).reshape(height, width, 1, out_channels)
        dtype = site.kernel.dtype
        return Factorization(
            (
                Stage(np.ascontiguousarray(palette[None, None], dtype), axes=(False, False)),
                Stage(np.ascontiguousarray(second, dtype), groups=colors),
            ),
            output_order=np.argsort(clusters.ravel()),
        )


def stage_shapes(site: Site, colors: int) -> list[StageShape]:
    """Returns the shapes of the two stages."""
    return [
        StageShape((1, 1), site.in_channels, colors, 1, (False, False)),
        StageShape(site.kernel_size, colors, site.out_channels, colors),
    ]


def filter_colours(kernel: np.ndarray) -> np.ndarray:
    """Returns the main colour of every filter, [O, I], of norm 1, the signs made alike.

    The sign of a singular vector is arbitrary; each is turned to the side of the main
    direction of all of them.
    """
    colours = filter_factors(kernel, 1)[0][:, :, 0].astype(np.float64)
    norms = np.linalg.norm(colours, axis=1, keepdims=True)
    colours = colours / np.where(norms > 0, norms, 1.0)
    main = np.linalg.eigh(colours.T @ colours)[1][:, -1]
    return colours * np.where(colours @ main < 0, -1.0, 1.0)[:, None]


def _shared_colour(taps: np.ndarray) -> np.ndarray:
    """Returns the unit vector c [I] that maximises sum_o ||c^T W_o||^2 over [T, I, o]."""
    unfolded = taps.transpose(1, 0, 2).reshape(taps.shape[1], -1).astype(np.float64)
    return np.linalg.eigh(unfolded @ unfolded.T)[1][:, -1].astype(taps.dtype)


def _divisors(number: int) -> list[int]:
    return [count for count in range(1, number + 1) if number % count == 0]
