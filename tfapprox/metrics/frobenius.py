"""The Frobenius norm: what truncation loses is the energy of the tail."""

import numpy as np

from tfapprox.accounting.site import Site
from tfapprox.decompositions.spectra import Spectrum, SpectrumCache

_PIECE = 2**20  # entries squared at a time, so that no float64 copy of a kernel is made


class FrobeniusNorm:
    """||W||_F, the root of the sum of squares."""

    def norm(self, kernel: np.ndarray) -> float:
        """Returns ||W||_F, summed in float64."""
        entries = kernel.reshape(-1)
        pieces = np.array_split(entries, 1 + entries.size // _PIECE)
        squares = sum(float(np.sum(np.square(p, dtype=np.float64))) for p in pieces)
        return float(np.sqrt(squares))

    def site_norm(self, site: Site, spectra: SpectrumCache) -> float:
        """Returns ||W||_F of the site's kernel."""
        return self.norm(site.kernel)

    def distance(self, site: Site, approximation: np.ndarray) -> float:
        """Returns the norm of the difference."""
        return self.norm(site.kernel - approximation)

    def residual_norms(self, spectrum: Spectrum, ranks: np.ndarray) -> np.ndarray:
        """Returns sqrt(sum_i sum_{r > j} s_{i,r}^2) for every rank j.

        Slices are disjoint columns and unfolding moves entries only, so squares add up.
        """
        return np.sqrt(tail_energy(spectrum.values)[ranks])


def tail_energy(values: np.ndarray) -> np.ndarray:
    """Returns float64 [R + 1], entry j the sum of squares of all values beyond rank j.

    Summed from the small end, so that the tail keeps its own precision.

    Args:
      values: [slices, R], singular values in descending order.
    """
    energy = np.sum(np.square(values), axis=0)
    return np.append(np.cumsum(energy[::-1])[::-1], 0.0)
