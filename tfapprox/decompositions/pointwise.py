"""1x1 kernels are matrices: what a tensor method becomes where there is no tensor."""

import dataclasses
from collections.abc import Callable

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.selection.problem import CandidateTable, Configuration

_SVD = SvdDecomposition()


def is_pointwise(site: Site) -> bool:
    """Says whether the kernel has one tap: Dense layers and 1x1 convolutions."""
    return site.kernel_size == (1, 1)


def pointwise_candidates(
    site: Site,
    metric: str,
    options: CandidateOptions,
    spectra: SpectrumCache,
    configure: Callable[[int], Configuration],
) -> CandidateTable:
    """Returns the truncated SVD's candidates under the names that `configure` gives a rank."""
    options = dataclasses.replace(options, schemes=(0,), slices=(1,))
    table = _SVD.candidates(site, metric, options, spectra)
    names = [configure(row.settings["rank"]) for row in table.configurations]
    noise = [
        dict.fromkeys(name.settings, ranks["rank"]) if ranks else {}
        for name, ranks in zip(names, table.noise_ranks, strict=True)
    ]
    return dataclasses.replace(table, configurations=names, noise_ranks=noise)


def pointwise_factorize(site: Site, rank: int, spectra: SpectrumCache) -> Factorization:
    """Returns the two 1x1 stages of the truncated SVD, which is optimal for a matrix."""
    svd = Configuration("svd", {"scheme": 0, "slices": 1, "rank": rank})
    return _SVD.factorize(site, svd, spectra)
