"""What every metric offers."""

from typing import Protocol

import numpy as np

from tfapprox.accounting.site import Site
from tfapprox.decompositions.spectra import Spectrum, SpectrumCache


class Metric(Protocol):
    """A norm of kernels in which errors are measured.

    All norms are of the scheme-0 unfolding (output channels x everything else), so
    that errors are comparable between decompositions.
    """

    def norm(self, kernel: np.ndarray) -> float:
        """Returns ||W|| of a kernel [H, W, I, O]."""
        ...

    def site_norm(self, site: Site, spectra: SpectrumCache) -> float:
        """Returns ||W|| of the site's kernel, from its spectra where that saves work."""
        ...

    def distance(self, site: Site, approximation: np.ndarray) -> float:
        """Returns ||W - W_hat|| of the site's kernel and another one, [H, W, I, O]."""
        ...

    def residual_norms(self, spectrum: Spectrum, ranks: np.ndarray) -> np.ndarray:
        """Returns ||W - W_hat|| after truncating every slice to each of `ranks`.

        Args:
          spectrum: of the kernel W, in any scheme and with any number of slices.
          ranks: int [n], ascending and distinct, each from 0 to the number of values.

        Returns:
          float64 [n], absolute and never rising.
        """
        ...


def relative_error(metric: Metric, kernel: np.ndarray, approximation: np.ndarray) -> float:
    """Returns ||W - W_hat|| / ||W||, 0 where both are zero: the definition, for any W_hat."""
    norm = metric.norm(kernel)
    # Half precision would round the difference, and not hold what it is compared with.
    precision = np.result_type(np.float32, kernel.dtype)
    residual = metric.norm(kernel.astype(precision) - approximation.astype(precision))
    if norm == 0.0:
        return 0.0 if residual == 0.0 else np.inf
    return residual / norm
