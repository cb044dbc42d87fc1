"""Fits site after site to the original's outputs, on the inputs of the compressed network.

The model runs twice on one batch: once as it is, to record what every site should give,
and once with the sites fitted as the run comes to them. Each fit sees what the sites before
it have left of the input, and so makes up for their errors as far as it can: it is the best
one, in the structure of the plan, to the regression of the original's outputs on the
compressed network's inputs. Where a ReLU follows, it may be fitted to what that lets through.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping

import numpy as np

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.collecting import RowSampler, call_weight
from tfapprox.calibration.rectifying import Rectifier, fit_rectified
from tfapprox.calibration.regression import Fit, Regression


class AnchoredFits:
    """Watches two runs on one batch: `record`, then `replay`.

    Attributes:
      fitted: site name -> stages with their offset, for every site that was executed.
      errors: site name -> relative error of its output (or of what the ReLU behind it lets
        through), against the original's: what the fit made as small as it could.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        fits: Mapping[str, Fit],
        unbiased: Collection[str] = (),
        rectifiers: Mapping[str, Rectifier] | None = None,
        told: Callable[[str], None] = lambda name: None,
        seed: int = 0,
    ):
        """Args:
        sites: those watched, by name.
        fits: those to fit; what is not among them stays dense.
        unbiased: those whose output takes no offset.
        rectifiers: the ReLUs to take into account, by site.
        told: hears of each site that is fitted.
        seed: of the rows that are drawn.
        """
        self._sites, self._fits, self._told = sites, fits, told
        self._unbiased, self._rectifiers = frozenset(unbiased), rectifiers or {}
        self._sampler = RowSampler(seed=seed)
        self._targets: dict[str, list[np.ndarray]] = defaultdict(list)
        self._order: Counter[str] = Counter()
        self._rows: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        self._pending: Counter[str] = Counter()
        self._kernels: dict[str, np.ndarray] = {}
        self._lock = threading.RLock()
        self.fitted: dict[str, Factorization] = {}
        self.errors: dict[str, float] = {}

    def record(
        self, name: str, use: str, x: np.ndarray, geometry: Geometry
    ) -> tuple[np.ndarray, np.ndarray]:
        """Remembers what the original gives, and lets it go on."""
        site = self._sites[name]
        if name in self._fits:
            rows = self._sampler.rows(site, use, x, geometry)
            target = rows @ site.kernel.reshape(rows.shape[1], -1)
            with self._lock:
                self._targets[use].append(target)
                self._pending[name] += 1
        return site.kernel, np.zeros(site.out_channels, site.kernel.dtype)

    def turn(self) -> None:
        """Goes from recording to replaying."""
        self._sampler.start_over()

    def replay(
        self, name: str, use: str, x: np.ndarray, geometry: Geometry
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fits a site as soon as all its inputs were seen, and goes on with the fit.

        A site that is executed several times runs unfitted until the last one.
        """
        site = self._sites[name]
        none = np.zeros(site.out_channels, site.kernel.dtype)
        if name not in self._fits or use not in self._targets:
            return site.kernel, none
        with self._lock:
            if name not in self.fitted:
                rows = self._sampler.rows(site, use, x, geometry)
                target = self._targets[use][self._order[use]]
                self._order[use] += 1
                self._rows[name].append((rows, target))
                self._pending[name] -= 1
                if not self._pending[name]:
                    self._fit(site)
            built = self.fitted.get(name)
            if built is None:
                return site.kernel, none
            return self._kernels[name], none if built.offset is None else built.offset

    def _fit(self, site: Site) -> None:
        rows, targets, weights = _joined(self._rows.pop(site.name))
        fit, rectifier = self._fits[site.name], self._rectifiers.get(site.name)
        regression = Regression(site.kernel, rows, site.name not in self._unbiased, weights)
        built, outputs = regression.fit(site, targets, fit)
        if rectifier is not None:
            built, outputs = fit_rectified(
                site, regression, targets, fit, rectifier, (built, outputs)
            )
            outputs, targets = rectifier.respond(outputs), rectifier.respond(targets)
        self.errors[site.name] = regression.relative_error(outputs, targets)
        self.fitted[site.name] = built
        self._kernels[site.name] = built.reconstruct()
        self._told(site.name)


def _joined(
    calls: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the rows and targets of all calls, and what each row counts.

    Calls that share a kernel count alike, whatever the size of their outputs.
    """
    by_call = [call_weight(targets) for _, targets in calls]
    weights = [
        np.full(len(rows), weight / max(by_call))
        for (rows, _), weight in zip(calls, by_call, strict=True)
    ]
    rows, targets = zip(*calls, strict=True)
    return np.concatenate(rows), np.concatenate(targets), np.concatenate(weights)
