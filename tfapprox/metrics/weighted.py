"""Norms that calibration data define, another one for each site."""

import numpy as np

from tfapprox.accounting.site import Site
from tfapprox.calibration.weights import weighted_norm
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.metrics.frobenius import FrobeniusNorm


class WeightedNorm(FrobeniusNorm):
    """sqrt(<W, A W>) with the form A that calibration data gave a site.

    As "covariance" it is the energy of the site's output, less the mean, for which a bias
    makes up: the relative error of a kernel is then that of its output on the
    calibration data. As "mahalanobis" it counts each entry by its gradients. Where a site
    has no form, A is the identity: the norm that white
    inputs would give.

    References:
      Denton et al. 2014, Section 3.1.
    """

    def site_norm(self, site: Site, spectra: SpectrumCache) -> float:
        """Returns ||W|| of the site's kernel."""
        if site.weight is None:
            return super().site_norm(site, spectra)
        if site.weight.inputs is None and site.weight.outputs is not None:
            return float(np.sqrt(max(0.0, float(np.trace(site.weight.outputs)))))
        return weighted_norm(site.weight, site.kernel.astype(np.float64))

    def distance(self, site: Site, approximation: np.ndarray) -> float:
        """Returns ||W - W_hat||."""
        if site.weight is None:
            return super().distance(site, approximation)
        return weighted_norm(site.weight, site.kernel.astype(np.float64) - approximation)
