"""Regressions on one set of inputs: what the inputs ask for is worked out once."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.calibration.moments import MomentAccumulator
from tfapprox.calibration.weights import CovarianceWeight

Fit = Callable[[Site], Factorization]
"""Fits a site's kernel (here the regression's) to its weight, in the structure of the plan."""

_ROUNDING = 1e-10  # of energies in float32
_RIDGES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 1e3)  # in units of the mean variance


class Regression:
    """Regressions of any targets y on the rows x', and fits of a structure to them.

      B = W + (E[x'^T x'] + ridge)^-1 E[x'^T (y - x' W)],

    drawn to the kernel W where rows are few. The ridge is chosen for the first targets that W
    does not give by itself: by those nothing can be told.

    Attributes:
      moments: of the rows.
    """

    def __init__(
        self,
        kernel: np.ndarray,
        rows: np.ndarray,
        centred: bool = True,
        weights: np.ndarray | None = None,
    ):
        """Args:
        kernel: [H, W, I, O], whose shape and dtype the answers have.
        rows: x', [n, D].
        centred: take everything about its mean, whose difference is left to an offset.
        weights: [n], what each row counts; all alike when None.
        """
        self._plain, self._centred, self._weights = rows, centred, weights
        center = np.zeros(rows.shape[1])
        if centred:
            center = np.average(rows, axis=0, weights=weights)
            rows = rows - center.astype(rows.dtype)
        self._rows = self._weighted(rows)
        accumulator = MomentAccumulator(kernel, keeps_inputs=True)
        accumulator.add(self._rows)
        self.moments = dataclasses.replace(accumulator.finish(centred=False), center=center)
        self._ridge: float | None = None
        self._factor: tuple[np.ndarray, bool] | None = None

    def fit(self, site: Site, targets: np.ndarray, fit: Fit) -> tuple[Factorization, np.ndarray]:
        """Returns the structure that best gives the targets, offset included, and its outputs.

        Args:
          site: whose kernel is W.
          targets: y, [n, O].
          fit: see `Fit`.
        """
        kernel = self.solve(site.kernel, targets)
        weight = CovarianceWeight(self.moments)
        built = fit(dataclasses.replace(site, kernel=kernel, weight=weight))
        composed = built.reconstruct()
        outputs = self._plain @ composed.reshape(self._plain.shape[1], -1)
        if self._centred:
            offset = np.average(targets - outputs, axis=0, weights=self._weights)
            built = dataclasses.replace(built, offset=offset.astype(kernel.dtype))
            outputs = outputs + offset.astype(outputs.dtype)
        return built, outputs

    def solve(self, kernel: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Returns B, [H, W, I, O]."""
        matrix = kernel.reshape(self._plain.shape[1], -1)
        missing = targets - self._plain @ matrix
        if self._centred:
            mean = np.average(missing, axis=0, weights=self._weights)
            missing = missing - mean.astype(missing.dtype)
        if np.vdot(missing, missing) <= _ROUNDING * np.vdot(targets, targets):
            return kernel
        missing = self._weighted(missing)
        if self._ridge is None:
            halves = (np.array_split(array, 2) for array in (self._rows, missing))
            self._ridge = _best_ridge([_Fold.of(*half) for half in zip(*halves, strict=True)])
            self._factor = _factor(_inner(self._rows), self._ridge)
        cross = (self._rows.T @ missing / len(missing)).astype(np.float64)
        change = scipy.linalg.cho_solve(self._factor, cross, check_finite=False)
        return (matrix + change).reshape(kernel.shape).astype(kernel.dtype)

    def relative_error(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Returns ||y - y_hat|| / ||y||, y about its mean where an offset can take that on."""
        wide = targets.astype(np.float64)
        lost = np.average(np.square(outputs - wide), axis=0, weights=self._weights).sum()
        if self._centred:
            wide = wide - np.average(wide, axis=0, weights=self._weights)
        whole = np.average(np.square(wide), axis=0, weights=self._weights).sum()
        return float(np.sqrt(lost / (whole or 1.0)))

    def _weighted(self, array: np.ndarray) -> np.ndarray:
        if self._weights is None:
            return array
        return array * np.sqrt(self._weights, dtype=array.dtype)[:, None]


@dataclasses.dataclass(frozen=True, eq=False)
class _Fold:
    """Moments of some rows: of the inputs, with the targets, and the targets' energy."""

    inner: np.ndarray
    cross: np.ndarray
    energy: float

    @classmethod
    def of(cls, rows: np.ndarray, targets: np.ndarray) -> "_Fold":
        cross = (rows.T @ targets / len(rows)).astype(np.float64)
        return cls(_inner(rows), cross, float(np.vdot(targets, targets)) / len(rows))

    def solve(self, ridge: float) -> np.ndarray:
        """Returns the regression with a ridge in units of the mean variance."""
        factor = _factor(self.inner.copy(), ridge)
        return scipy.linalg.cho_solve(factor, self.cross, check_finite=False)

    def error(self, change: np.ndarray) -> float:
        """Returns the mean squared error of a regression on these rows."""
        explained = 2 * np.vdot(change, self.cross) - np.vdot(change, self.inner @ change)
        return self.energy - float(explained)


def _inner(rows: np.ndarray) -> np.ndarray:
    return (rows.T @ rows / len(rows)).astype(np.float64)


def _factor(inner: np.ndarray, ridge: float) -> tuple[np.ndarray, bool]:
    """Returns the Cholesky factor of a moment, which is overwritten, with its ridge."""
    size = len(inner)
    inner.ravel()[:: size + 1] += ridge * max(float(np.trace(inner)) / size, 1e-30)
    return scipy.linalg.cho_factor(inner, lower=True, overwrite_a=True, check_finite=False)


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
