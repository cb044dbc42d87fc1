"""Tucker-2: fewer channels in, a small core convolution, fewer channels out."""

from collections.abc import Mapping

import numpy as np

from tfapprox.accounting.cost import Cost, StageShape, chain_cost
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site
from tfapprox.decompositions.evbmf import evbmf_rank
from tfapprox.decompositions.hooi import UNFOLDING, hooi, leading_vectors, truncation_energy
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.pointwise import (
    is_pointwise,
    pointwise_candidates,
    pointwise_factorize,
)
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.table import (
    built_table,
    checked_settings,
    evenly,
    ranks_below,
    saves,
)
from tfapprox.decompositions.unfolding import matrix_shape
from tfapprox.errors import UserError
from tfapprox.selection.problem import CandidateTable, Configuration

_ROWS = 24  # rank pairs that are fitted and measured, of all those on the Pareto front


class TuckerDecomposition:
    """W ~ core x_I U x_O V, U and V with orthonormal columns, in three stages.

    The stages are 1x1 from I to `rank_in` channels, H x W (which holds strides, padding
    and dilations) to `rank_out`, and 1x1 to O. For a 1x1 kernel both ranks coincide and
    the truncated SVD is optimal: two stages.

    The table is in two steps. Truncating the higher-order SVD gives the error of every
    rank pair at once, from partial sums over one squared core; only pairs that no other
    pair beats in error, parameters and MACs are looked at further, 24 of them, evenly
    spread by size. Those are fitted by HOOI, as `factorize` does, and measured.

    References:
      Elhoushi et al.: Accelerating Training using Tensor Decomposition, 2021, Equations
        7 to 11; Kim et al. 2016, Section 3.1.
      De Lathauwer, De Moor, Vandewalle: On the Best Rank-1 and Rank-(R1, R2, ..., RN)
        Approximation of Higher-Order Tensors, 2000, Algorithm 4.2 (HOOI).
    """

    def candidates(
        self, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
    ) -> CandidateTable:
        """Returns the best rank pairs, each below the number of channels.

        A rank equal to the number of channels is not offered: without the stage that
        it makes needless, that is the SVD of scheme 0 or 3.

        Raises:
          UserError: the kernel has NaN or infinite entries.
        """
        if is_pointwise(site):
            return pointwise_candidates(site, metric, options, spectra, _same_rank)
        noise = noise_ranks(site, spectra)
        configurations = [
            _configuration(rank_in, rank_out)
            for rank_in, rank_out in _best_pairs(site, options.rank_multiple, noise, spectra)
        ]
        return built_table(
            site,
            metric,
            spectra,
            configurations,
            lambda row: self.factorize(site, row, spectra),
            [noise] * len(configurations),
        )

    def full_rank(self, site: Site) -> Configuration:
        """Returns the pair of all channels (of a 1x1 kernel: the smaller number twice)."""
        return _configuration(*most_ranks(site))

    def factorize(
        self, site: Site, configuration: Configuration, spectra: SpectrumCache
    ) -> Factorization:
        """Returns the stages, fitted by HOOI from the truncated higher-order SVD.

        Raises:
          UserError: the ranks do not fit the site; the message has the accepted range.
        """
        rank_in, rank_out = _checked_ranks(site, configuration)
        if is_pointwise(site):
            return pointwise_factorize(site, rank_in, spectra)
        start_in = leading_vectors(site, "in", rank_in, spectra)
        start_out = leading_vectors(site, "out", rank_out, spectra)
        core, basis_in, basis_out = hooi(site.kernel, start_in, start_out)
        dtype = site.kernel.dtype
        return Factorization(
            (
                Stage(basis_in[None, None].astype(dtype, copy=False), axes=(False, False)),
                Stage(core.astype(dtype, copy=False)),
                Stage(
                    np.ascontiguousarray(basis_out.T)[None, None].astype(dtype, copy=False),
                    axes=(False, False),
                ),
            )
        )


def most_ranks(site: Site) -> tuple[int, int]:
    """Returns the ranks of both channel unfoldings, which reproduce any kernel exactly."""
    rank_in, rank_out = (min(matrix_shape(site.kernel.shape, UNFOLDING[s])) for s in ("in", "out"))
    return rank_in, rank_out


def noise_ranks(site: Site, spectra: SpectrumCache) -> Mapping[str, int]:
    """Returns the EVBMF ranks of both channel unfoldings, by the names of the settings."""
    return {
        f"rank_{side}": evbmf_rank(
            spectra.singular_values(site, scheme)[0], matrix_shape(site.kernel.shape, scheme)
        )
        for side, scheme in UNFOLDING.items()
    }


def _best_pairs(
    site: Site, multiple: int, noise: Mapping[str, int], spectra: SpectrumCache
) -> list[tuple[int, int]]:
    """Returns rank pairs that save something and that no other pair beats, by size."""
    most_in, most_out = most_ranks(site)
    grid = np.meshgrid(ranks_below(most_in, multiple), ranks_below(most_out, multiple))
    rank_in, rank_out = (axis.ravel() for axis in grid)
    taps = site.kernel_size[0] * site.kernel_size[1]
    # Beyond these bounds the core has linearly dependent slices.
    useful = (rank_in <= taps * rank_out) & (rank_out <= taps * rank_in)
    cost = pair_cost(site, rank_in, rank_out)
    useful &= saves(cost, site.cost)
    rank_in, rank_out = rank_in[useful], rank_out[useful]
    if not len(rank_in):
        return []
    energy = truncation_energy(site, spectra)
    loss = energy[rank_in - 1, rank_out - 1]
    columns = np.stack([loss, np.asarray(cost.params)[useful], np.asarray(cost.macs)[useful]])
    front = [index for index in np.argsort(columns[1]) if not _beaten(columns, index)]
    pairs = evenly([(int(rank_in[i]), int(rank_out[i])) for i in front], _ROWS)
    above = (rank_in >= noise["rank_in"]) & (rank_out >= noise["rank_out"])
    if np.any(above):
        # The pair that EVBMF asks for is there even if another one beats it.
        smallest = np.flatnonzero(above)[np.argmin(columns[1][above])]
        pairs.append((int(rank_in[smallest]), int(rank_out[smallest])))
    return sorted(set(pairs))


def _beaten(columns: np.ndarray, index: int) -> bool:
    """Says whether some row is nowhere worse than row `index` and somewhere better."""
    row = columns[:, index, None]
    return bool(np.any(np.all(columns <= row, axis=0) & np.any(columns < row, axis=0)))


def pair_cost(site: Site, rank_in: np.ndarray | int, rank_out: np.ndarray | int) -> Cost:
    """Returns the cost of the three stages; arrays of ranks give arrays."""
    shapes = [
        StageShape((1, 1), site.in_channels, rank_in, 1, (False, False)),  # type: ignore[arg-type]
        StageShape(site.kernel_size, rank_in, rank_out),  # type: ignore[arg-type]
        StageShape((1, 1), rank_out, site.out_channels, 1, (False, False)),  # type: ignore[arg-type]
    ]
    return chain_cost(shapes, site.geometries, site.kernel.dtype.itemsize)


def _configuration(rank_in: int, rank_out: int) -> Configuration:
    return Configuration("tucker2", {"rank_in": rank_in, "rank_out": rank_out})


def _same_rank(rank: int) -> Configuration:
    return _configuration(rank, rank)


def _checked_ranks(site: Site, configuration: Configuration) -> tuple[int, int]:
    most_in, most_out = most_ranks(site)
    accepted = {"rank_in": range(1, most_in + 1), "rank_out": range(1, most_out + 1)}
    rank_in, rank_out = checked_settings(site, configuration, accepted)
    if is_pointwise(site) and rank_in != rank_out:
        raise UserError(
            f"site {site.name}: the kernel is 1x1, where tucker2 has one rank: "
            f"rank_in and rank_out must be equal, got {rank_in} and {rank_out}"
        )
    return rank_in, rank_out
