"""Fits site after site to the original's outputs, on the inputs of the compressed network.

The model runs twice on one batch: once as it is, to record what every site should give,
and once with the sites fitted as the run comes to them. Each fit sees what the sites
before it have left of the input, and so makes up for their errors as far as it can:

  B = W + (E[x'^T x'] + ridge)^-1 E[x'^T (y - x' W)],

the regression of the original's outputs y on the compressed network's inputs x', drawn
to the original kernel W where data are few; then the best fit to B under E[x'^T x'].
"""

import dataclasses
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import scipy.linalg

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.collecting import RowSampler, call_weight
from tfapprox.calibration.moments import MomentAccumulator, Moments
from tfapprox.calibration.weights import CovarianceWeight

Fit = Callable[[Site], Factorization]
"""Fits a site's kernel (here the regression's) to its weight, in the structure of the plan."""

_RIDGES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 1e3)  # in units of the mean variance


class AnchoredFits:
    """Watches two runs on one batch: `record`, then `replay`.

    Attributes:
      fitted: site name -> stages with their offset, for every site that was executed.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        fits: Mapping[str, Fit],
        unbiased: Collection[str] = (),
        told: Callable[[str], None] = lambda name: None,
        seed: int = 0,
    ):
        """Args:
        sites: those watched, by name.
        fits: those to fit; what is not among them stays dense.
        unbiased: those whose output takes no offset.
        told: hears of each site that is fitted.
        seed: of the rows that are drawn.
        """
        self._sites, self._fits, self._told = sites, fits, told
        self._unbiased = frozenset(unbiased)
        self._sampler = RowSampler(seed=seed)
        self._targets: dict[str, list[np.ndarray]] = defaultdict(list)
        self._order: Counter[str] = Counter()
        self._rows: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        self._pending: Counter[str] = Counter()
        self._kernels: dict[str, np.ndarray] = {}
        self._lock = threading.RLock()
        self.fitted: dict[str, Factorization] = {}

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
        centred = site.name not in self._unbiased
        regression, moments = anchored_regression(site.kernel, rows, targets, centred, weights)
        anchored = dataclasses.replace(
            site, kernel=regression.astype(site.kernel.dtype), weight=CovarianceWeight(moments)
        )
        built = self._fits[site.name](anchored)
        kernel = built.reconstruct()
        if centred:
            mean = kernel.reshape(rows.shape[1], -1).T @ moments.center
            offset = np.average(targets, axis=0, weights=weights) - mean
            built = dataclasses.replace(built, offset=offset.astype(site.kernel.dtype))
        self.fitted[site.name] = built
        self._kernels[site.name] = kernel
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


def anchored_regression(
    kernel: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
    centred: bool = True,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, Moments]:
    """Returns the kernel that best gives the targets on these rows, and their moments.

    Args:
      kernel: W, [H, W, I, O], which the regression stays near where rows are few.
      rows: x', [n, D].
      targets: y, [n, O].
      centred: take both about their means, whose difference is left to a bias.
      weights: [n], what each row counts; all alike when None.
    """
    matrix = kernel.reshape(rows.shape[1], -1)
    missing, center = targets - rows @ matrix, np.zeros(len(matrix))
    if centred:
        center = np.average(rows, axis=0, weights=weights)
        rows = rows - center.astype(rows.dtype)
        missing = missing - np.average(missing, axis=0, weights=weights).astype(missing.dtype)
    if weights is not None:
        scale = np.sqrt(weights, dtype=rows.dtype)[:, None]
        rows, missing = rows * scale, missing * scale
    accumulator = MomentAccumulator(kernel, keeps_inputs=True)
    accumulator.add(rows)
    moments = dataclasses.replace(accumulator.finish(centred=False), center=center)
    folds = [
        _Fold.of(*fold)
        for fold in zip(*(np.array_split(a, 2) for a in (rows, missing)), strict=True)
    ]
    whole = _Fold.of(rows, missing)
    change = whole.solve(_best_ridge(folds))
    return (matrix + change).reshape(kernel.shape), moments


@dataclasses.dataclass(frozen=True, eq=False)
class _Fold:
    """Moments of some rows: of the inputs, with the targets, and the targets' energy."""

    inner: np.ndarray
    cross: np.ndarray
    energy: float

    @classmethod
    def of(cls, rows: np.ndarray, targets: np.ndarray) -> "_Fold":
        inner = (rows.T @ rows / len(rows)).astype(np.float64)
        cross = (rows.T @ targets / len(rows)).astype(np.float64)
        return cls(inner, cross, float(np.vdot(targets, targets)) / len(rows))

    def solve(self, ridge: float) -> np.ndarray:
        """Returns the regression with a ridge in units of the mean variance."""
        inner = self.inner.copy()
        size = len(inner)
        inner.ravel()[:: size + 1] += ridge * max(float(np.trace(inner)) / size, 1e-30)
        factor = scipy.linalg.cho_factor(inner, lower=True, overwrite_a=True, check_finite=False)
        return scipy.linalg.cho_solve(factor, self.cross, check_finite=False)

    def error(self, change: np.ndarray) -> float:
        """Returns the mean squared error of a regression on these rows."""
        explained = 2 * np.vdot(change, self.cross) - np.vdot(change, self.inner @ change)
        return self.energy - float(explained)


def _best_ridge(folds: Sequence[_Fold]) -> float:
    """Returns the ridge whose fits to either fold do best on the other one.

    Rows come in the order of the examples, so that each fold has examples of its own:
    rows of one image are far from independent, and counting them would overrate them.
    """
    errors = []
    for ridge in _RIDGES:
        changes = [fold.solve(ridge) for fold in folds]
        errors.append(folds[0].error(changes[1]) + folds[1].error(changes[0]))
    return _RIDGES[int(np.argmin(errors))]
