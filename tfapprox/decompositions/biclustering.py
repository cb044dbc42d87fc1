"""Biclustering: input and output channels in clusters, each pair of clusters by itself."""

import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tfapprox.accounting.cost import StageShape, chain_cost
from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.decompositions.bicluster_stages import Blocks, Clusters, cluster_channels
from tfapprox.decompositions.canonical import fit_terms, orthogonal_terms
from tfapprox.decompositions.hooi import hooi, main_vectors
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache, check_finite
from tfapprox.decompositions.table import built_table, checked_settings, saves
from tfapprox.errors import UserError
from tfapprox.selection.problem import CandidateTable, Configuration

_GROWTH = 4.0  # of the sensitivity of a block's terms, at most
_GAIN = 1e-2  # many small blocks: a sweep that gains less is not worth its time
_SHARES = (0.25, 0.5, 0.75)  # of the full ranks, for bicluster_svd
_KEPT = (0.125, 0.25, 0.5, 0.75)  # of a block's parameters, for bicluster_cp


class BiclusterSvd:
    """Every block of weights between two clusters is a Tucker-2 of its own.

    Input channels fall into G clusters of c = I / G, output channels into H of
    f = O / H. A block [H, W, c, f] keeps `rank_out` (K2) directions of its outputs and
    `rank_in` (K1) of its inputs. Three stages, the first and the last grouped, with
    channels gathered before each, cost c K1 + H W K1 K2 + K2 f per block. A 1x1 kernel
    has one rank per block and two stages.

    The paper truncates two SVDs one after the other; we let HOOI iterate from there.

    References:
      Denton, Zaremba, Bruna, LeCun, Fergus: Exploiting Linear Structure Within
      Convolutional Networks for Efficient Evaluation, 2014, Section 3.3 and supplement,
      Table 2.
    """

    def candidates(
        self, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
    ) -> CandidateTable:
        """Returns 2 and 4 clusters on either side, ranks of a quarter to three quarters.

        Raises:
          UserError: the kernel has NaN or infinite entries.
        """
        configurations = []
        for groups in itertools.product(_dividing(site, 2, (2, 4)), _dividing(site, 3, (2, 4))):
            most_in, most_out = _most_ranks(site, *groups)
            ranks_in = _share(most_in, options.rank_multiple)
            ranks_out = _share(most_out, options.rank_multiple)
            for ranks in itertools.product(ranks_in, ranks_out):
                if _taps(site) > 1 or ranks[0] == ranks[1]:
                    configurations.append(_svd_row(*groups, *ranks))
        return _table(self, site, metric, configurations, spectra)

    def full_rank(self, site: Site) -> Configuration:
        """Returns two clusters on either side (one of odd channels) and all ranks."""
        groups_in, groups_out = (_dividing(site, axis, (1, 2))[-1] for axis in (2, 3))
        return _svd_row(groups_in, groups_out, *_most_ranks(site, groups_in, groups_out))

    def shapes(self, site: Site, settings: Mapping[str, int]) -> list[StageShape]:
        """Returns the shapes of the stages."""
        groups = settings["groups_in"] * settings["groups_out"]
        return _shapes(site, settings, settings["rank_in"], settings["rank_out"], groups)

    def factorize(
        self,
        site: Site,
        configuration: Configuration,
        spectra: SpectrumCache,
        clusters: Clusters | None = None,
    ) -> Factorization:
        """Returns the stages; channels are clustered the same way every time.

        Args:
          clusters: of this site and configuration, if they are known already.

        Raises:
          UserError: the numbers of clusters or ranks do not fit, naming those that do.
        """
        most_in, most_out = _most_ranks(site, *_valid_groups(site, configuration.settings))
        ranks = {"rank_in": range(1, most_in + 1), "rank_out": range(1, most_out + 1)}
        rank_in, rank_out = _checked(site, configuration, ranks)
        if _taps(site) == 1 and rank_in != rank_out:
            raise UserError(
                f"site {site.name}: the kernel is 1x1, where bicluster_svd has one rank: "
                f"rank_in and rank_out must be equal, got {rank_in} and {rank_out}"
            )

        def split(blocks: np.ndarray) -> Blocks:
            fits = [_tucker2(block, rank_in, rank_out) for block in blocks]
            firsts, middles, lasts = zip(*fits, strict=True)
            return np.stack(firsts), np.stack(middles), np.stack(lasts)

        return (clusters or _clusters(site, configuration)).stages(site.kernel, split)


class BiclusterCp:
    """Every block of weights between two clusters is a sum of K outer products.

    As `BiclusterSvd`, with terms input x taps x output: 1x1 in G groups, H x W on every
    channel by itself, 1x1 in H groups, for K (c + H W + f) per block. Pays with many
    small input clusters (the paper has c = 2).

    The paper subtracts one term after the other; we fit all terms of a block together,
    which loses less at the same cost, and with bounded sensitivity (see `canonical`).

    References:
      Denton et al. 2014, Section 3.3 and supplement, Table 3.
    """

    def candidates(
        self, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
    ) -> CandidateTable:
        """Returns at most 64 blocks, with terms for an eighth to three quarters of each.

        Raises:
          UserError: the kernel has NaN or infinite entries.
        """
        groups_in, groups_out = _dividing(site, 2, (8, 16, 32)), _dividing(site, 3, (2, 4))
        configurations = []
        for groups in itertools.product(groups_in, groups_out):
            sizes = (site.in_channels // groups[0], _taps(site), site.out_channels // groups[1])
            terms = {round(share * np.prod(sizes) / sum(sizes)) for share in _KEPT} - {0}
            if groups[0] * groups[1] <= 64:
                configurations += [_cp_row(*groups, count) for count in sorted(terms)]
        return _table(self, site, metric, configurations, spectra)

    def full_rank(self, site: Site) -> Configuration:
        """Returns two clusters on either side (one of odd channels) and all terms."""
        groups_in, groups_out = (_dividing(site, axis, (1, 2))[-1] for axis in (2, 3))
        return _cp_row(groups_in, groups_out, _most_terms(site, groups_in, groups_out))

    def shapes(self, site: Site, settings: Mapping[str, int]) -> list[StageShape]:
        """Returns the shapes of the stages."""
        rank = settings["rank"]
        groups = settings["groups_in"] * settings["groups_out"] * rank
        return _shapes(site, settings, rank, rank, groups)

    def factorize(
        self,
        site: Site,
        configuration: Configuration,
        spectra: SpectrumCache,
        clusters: Clusters | None = None,
    ) -> Factorization:
        """Returns the stages; channels are clustered the same way every time.

        Args:
          clusters: of this site and configuration, if they are known already.

        Raises:
          UserError: the numbers of clusters or terms do not fit, naming those that do.
        """
        most = _most_terms(site, *_valid_groups(site, configuration.settings))
        (rank,) = _checked(site, configuration, {"rank": range(1, most + 1)})

        def split(blocks: np.ndarray) -> Blocks:
            flat = blocks.reshape(len(blocks), 1, -1, *blocks.shape[3:])
            terms = fit_terms(flat, orthogonal_terms(flat, rank), _GROWTH, _GAIN)
            patterns = (terms.height * terms.width).reshape(*blocks.shape[:3], 1, rank)
            return terms.inputs, patterns, terms.outputs.swapaxes(1, 2)

        return (clusters or _clusters(site, configuration)).stages(site.kernel, split)


def _tucker2(block: np.ndarray, rank_in: int, rank_out: int) -> tuple[np.ndarray, ...]:
    """Returns [c, K1], [H, W, K1, K2] and [K2, f] for a block [H, W, c, f]."""
    taps = block.reshape(-1, *block.shape[2:])
    basis_out = main_vectors(taps.transpose(2, 0, 1), rank_out)
    basis_in = main_vectors((taps @ basis_out).transpose(1, 0, 2), rank_in)
    core, basis_in, basis_out = hooi(block, basis_in, basis_out)
    return basis_in, core, basis_out.T


def _svd_row(groups_in: int, groups_out: int, rank_in: int, rank_out: int) -> Configuration:
    settings = {"groups_in": groups_in, "groups_out": groups_out}
    return Configuration("bicluster_svd", {**settings, "rank_in": rank_in, "rank_out": rank_out})


def _cp_row(groups_in: int, groups_out: int, rank: int) -> Configuration:
    settings = {"groups_in": groups_in, "groups_out": groups_out, "rank": rank}
    return Configuration("bicluster_cp", settings)


def _taps(site: Site) -> int:
    return site.kernel_size[0] * site.kernel_size[1]


def _dividing(site: Site, axis: int, counts: Sequence[int]) -> list[int]:
    """Returns those counts that divide the channels of a kernel axis."""
    return [count for count in counts if site.kernel.shape[axis] % count == 0]


def _most_ranks(site: Site, groups_in: int, groups_out: int) -> tuple[int, int]:
    """Returns the ranks of a block's two channel unfoldings."""
    inputs, outputs = site.in_channels // groups_in, site.out_channels // groups_out
    return min(inputs, _taps(site) * outputs), min(outputs, _taps(site) * inputs)


def _most_terms(site: Site, groups_in: int, groups_out: int) -> int:
    """Returns the number of orthogonal terms that make up any block."""
    return _taps(site) * min(site.in_channels // groups_in, site.out_channels // groups_out)


def _share(most: int, multiple: int) -> list[int]:
    """Returns shares of a rank, in multiples where it is large enough."""
    unit = multiple if most > 2 * multiple else 1
    return sorted({max(1, round(share * most / unit)) * unit for share in _SHARES})


def _shapes(
    site: Site, settings: Mapping[str, int], rank_in: int, rank_out: int, middle_groups: int
) -> list[StageShape]:
    groups_in, groups_out = settings["groups_in"], settings["groups_out"]
    pairs = groups_in * groups_out
    first = StageShape((1, 1), site.in_channels, pairs * rank_in, groups_in, (False, False))
    if _taps(site) == 1:
        return [first, StageShape((1, 1), pairs * rank_out, site.out_channels, groups_out)]
    return [
        first,
        StageShape(site.kernel_size, pairs * rank_in, pairs * rank_out, middle_groups),
        StageShape((1, 1), pairs * rank_out, site.out_channels, groups_out, (False, False)),
    ]


def _table(
    method: BiclusterSvd | BiclusterCp,
    site: Site,
    metric: str,
    configurations: Sequence[Configuration],
    spectra: SpectrumCache,
) -> CandidateTable:
    """Builds and measures the configurations that save something."""
    check_finite(site)
    itemsize = site.kernel.dtype.itemsize
    costs = [
        chain_cost(method.shapes(site, row.settings), site.geometries, itemsize)
        for row in configurations
    ]
    worth_it = [
        row for row, cost in zip(configurations, costs, strict=True) if saves(cost, site.cost)
    ]
    members = functools.cache(lambda axis, count: cluster_channels(site.kernel, axis, count))

    def build(row: Configuration) -> Factorization:
        inputs, outputs = row.settings["groups_in"], row.settings["groups_out"]
        clusters = Clusters(members(2, inputs), members(3, outputs))
        return method.factorize(site, row, spectra, clusters)

    return built_table(site, metric, spectra, worth_it, build)


def _valid_groups(site: Site, settings: Mapping[str, int]) -> list[int]:
    """Returns the two numbers of clusters, 1 in place of one that does not divide."""
    names = {"groups_in": site.in_channels, "groups_out": site.out_channels}
    groups = [(settings.get(name, 1), channels) for name, channels in names.items()]
    return [count if 0 < count and channels % count == 0 else 1 for count, channels in groups]


def _checked(
    site: Site, configuration: Configuration, ranks: Mapping[str, Sequence[int]]
) -> list[int]:
    """Returns the ranks, after checking them and the numbers of clusters."""
    groups = {
        "groups_in": _divisors(site.in_channels),
        "groups_out": _divisors(site.out_channels),
    }
    return checked_settings(site, configuration, {**groups, **ranks})[2:]


def _divisors(number: int) -> list[int]:
    return [count for count in range(1, number + 1) if number % count == 0]


def _clusters(site: Site, configuration: Configuration) -> Clusters:
    check_finite(site)
    settings = configuration.settings
    return Clusters.of(site.kernel, settings["groups_in"], settings["groups_out"])
