"""How much an error of one site's output changes what the model gives in the end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.moments import Moments
from tfapprox.decompositions.weighted_svd import weighted_svd_of_outputs

EXAMPLES = 16
_TRIAL_ERROR = 0.3  # of the trial: about what a compression does


class SensitivityTrial:
    """Watches runs in which one site at a time is replaced by a fit of lower rank.

    The fit loses about 0.3 of the site's output, in the directions that a compression
    would give up. What the model's outputs lose, per unit of that, is the sensitivity:
    site errors times sensitivities are in units of the relative error of the outputs.
    """

    def __init__(self, sites: Sequence[Site], moments: Mapping[str, Moments]):
        self._sites = {site.name: site for site in sites}
        self._moments = moments
        self._trial: tuple[str, np.ndarray, np.ndarray] | None = None

    def watch(
        self, name: str, use: str, x: np.ndarray, geometry: Geometry
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the site's kernel, or that of the trial."""
        if self._trial is not None and self._trial[0] == name:
            return self._trial[1:]
        site = self._sites[name]
        return site.kernel, np.zeros(site.out_channels, site.kernel.dtype)

    def measure(
        self, run: Callable[[], Sequence[np.ndarray]], told: Callable[[int], None]
    ) -> dict[str, float]:
        """Returns the sensitivity of every site whose moments are known.

        Args:
          run: runs the model under observation and returns its outputs.
          told: hears how many sites are done.
        """
        original = [_as_numbers(output) for output in run()]
        found: dict[str, float] = {}
        for name, moments in self._moments.items():
            told(len(found))
            kernel, offset, error = trial_fit(self._sites[name], moments)
            if error > 0:
                self._trial = name, kernel, offset
                outputs = [_as_numbers(output) for output in run()]
                found[name] = _relative_change(original, outputs) / error
        self._trial = None
        return found


def trial_fit(site: Site, moments: Moments) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns a kernel of lower rank, its offset, and its relative error on the data."""
    matrix = site.kernel.reshape(-1, site.out_channels).astype(np.float64)
    outputs = moments.outputs
    if outputs is None:
        assert moments.inputs is not None
        outputs = matrix.T @ (moments.inputs @ matrix.astype(moments.inputs.dtype))
    outputs = outputs.astype(np.float64)
    fit = weighted_svd_of_outputs(site.kernel, outputs, min(matrix.shape))
    ranks = np.arange(fit.first.shape[2] + 1)
    errors = fit.residual_norms(ranks) / (np.sqrt(max(fit.energy, 0.0)) or 1.0)
    rank = int(np.argmin(np.abs(errors[1:] - _TRIAL_ERROR))) + 1
    kernel = fit.factorization(rank, site.kernel.dtype).reconstruct()
    offset = moments.center @ (matrix - kernel.reshape(matrix.shape))
    return kernel, offset.astype(site.kernel.dtype), float(errors[rank])


def _as_numbers(output: Any) -> np.ndarray:
    """Returns an output as float64, empty if it has no fractional part to change little by."""
    array = np.asarray(output)
    floating = array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float"))
    return array.astype(np.float64) if floating else np.zeros(0)


def _relative_change(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """Returns the root mean square over the outputs of their relative changes."""
    changes = [
        np.linalg.norm(b - a) / norm
        for a, b in zip(before, after, strict=True)
        if a.shape == b.shape and (norm := np.linalg.norm(a)) > 0
    ]
    return float(np.sqrt(np.mean(np.square(changes)))) if changes else 1.0
