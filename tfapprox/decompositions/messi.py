"""Messi: the kernel's columns in k clusters, each near a subspace of its own."""

import numpy as np

from tfapprox.accounting.cost import StageShape, chain_cost
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache, check_finite, gram
from tfapprox.decompositions.table import built_table, checked_settings, ranks_below, saves
from tfapprox.selection.problem import CandidateTable, Configuration

_ROWS = 8
_SWEEPS = 20


class MessiDecomposition:
    """Projective clustering of the columns of W [O, H W I], for the ablation of ALDS.

    Like the SVD with k slices, but any column may join any of the k subspaces of
    dimension j. The first stage is then sparse, with one block of j numbers for each
    column, in no regular pattern: it runs and is stored as a dense stage of k j outputs,
    and **that is what the table counts**. The SVD of rank k j costs the same and loses
    less, so that no selector prefers Messi; `nonzeros` gives the paper's count.

    The starting clusters are the channel slices of the SVD, so it never loses more
    than they do, in the Frobenius norm. Settings: `slices` (k) and `rank` (j).

    References:
      Maalouf, Lang, Rus, Feldman: Deep Learning Meets Projective Clustering, 2021;
      Liebenwein et al. 2021, supplement, Sections A.2 and C.3.
    """

    def candidates(
        self, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
    ) -> CandidateTable:
        """Returns, for each number of slices above 1, some ranks that save something.

        Raises:
          UserError: the kernel has NaN or infinite entries.
        """
        check_finite(site)
        rows: list[Configuration] = []
        for slices in options.slices:
            if slices == 1 or site.in_channels % slices:
                continue
            ranks = ranks_below(_most_ranks(site), options.rank_multiple)
            costs = [chain_cost(_shapes(site, slices * int(r)), site.geometries, 1) for r in ranks]
            ranks = ranks[[bool(saves(cost, site.cost)) for cost in costs]]
            step = max(1, len(ranks) // _ROWS)
            rows += [_configuration(slices, rank) for rank in ranks[::step].tolist()]
        return built_table(
            site, metric, spectra, rows, lambda row: self.factorize(site, row, spectra)
        )

    def full_rank(self, site: Site) -> Configuration:
        """Returns one cluster at full rank."""
        return _configuration(1, _most_ranks(site))

    def factorize(
        self, site: Site, configuration: Configuration, spectra: SpectrumCache
    ) -> Factorization:
        """Returns the two stages, the first one's other blocks spelled out as zeros.

        Raises:
          UserError: the settings do not fit the site; the message has those that do.
        """
        divisors = [k for k in range(1, site.in_channels + 1) if site.in_channels % k == 0]
        accepted = {"slices": divisors, "rank": range(1, _most_ranks(site) + 1)}
        slices, rank = checked_settings(site, configuration, accepted)
        check_finite(site)
        height, width, in_channels, out_channels = site.kernel.shape
        columns = site.kernel.reshape(-1, out_channels)
        columns = columns.astype(np.result_type(np.float32, columns.dtype), copy=False)
        start = np.arange(len(columns)) % in_channels // (in_channels // slices)
        labels, bases = projective_clusters(columns, start, slices, rank)
        first = np.zeros((len(columns), slices, rank), columns.dtype)
        for label, basis in enumerate(bases):
            first[labels == label, label] = columns[labels == label] @ basis
        first = first.reshape(height, width, in_channels, slices * rank)
        second = np.concatenate(bases, axis=1).T[None, None]
        dtype = site.kernel.dtype
        return Factorization(
            (
                Stage(np.ascontiguousarray(first, dtype)),
                Stage(np.ascontiguousarray(second, dtype), axes=(False, False)),
            )
        )


def projective_clusters(
    columns: np.ndarray, start: np.ndarray, count: int, rank: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns labels and orthonormal bases that no longer improve by alternating.

    Each sweep takes the best subspace of every cluster, then moves every column to the
    subspace that keeps most of it: sum_d ||x_d - U U^T x_d||^2 never rises.

    Args:
      columns: [D, O], a column of W in each row.
      start: int [D], labels to begin with.
      count, rank: number k of subspaces and their dimension j.

    Returns:
      labels int [D] and k bases [O, j].
    """
    labels, kept = start, -1.0
    for _ in range(_SWEEPS):
        bases = [_subspace(columns[labels == label], rank) for label in range(count)]
        energies = np.stack([np.sum((columns @ basis) ** 2, axis=1) for basis in bases])
        labels = np.argmax(energies, axis=0)
        before, kept = kept, float(energies.max(axis=0).sum())
        if kept <= before * (1 + 1e-4):
            break
    return labels, bases


def nonzeros(site: Site, slices: int, rank: int) -> int:
    """Returns the weights as the paper counts them: those that are not zero by structure."""
    columns = site.kernel.size // site.out_channels
    return columns * rank + slices * rank * site.out_channels


def _subspace(columns: np.ndarray, rank: int) -> np.ndarray:
    """Returns the leading left singular vectors of the cluster, [O, rank]."""
    if not len(columns):
        return np.eye(columns.shape[1], rank, dtype=columns.dtype)
    return np.linalg.eigh(gram(columns.T))[1][:, : -rank - 1 : -1].astype(columns.dtype)


def _most_ranks(site: Site) -> int:
    return min(site.out_channels, site.kernel.size // site.out_channels)


def _shapes(site: Site, rank: int) -> list[StageShape]:
    return [
        StageShape(site.kernel_size, site.in_channels, rank),
        StageShape((1, 1), rank, site.out_channels, 1, (False, False)),
    ]


def _configuration(slices: int, rank: int) -> Configuration:
    return Configuration("messi", {"slices": slices, "rank": rank})
