"""First and second moments of a site's inputs, gathered batch by batch in bounded memory."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What calibration data say about one kernel W [D, O], D = H W I, and its inputs x [D].

    All moments are about `center`: the part of the error that a bias can take on is none.

    Attributes:
      center: float64 [D], the mean input, or zeros where no bias can be corrected.
      inputs: float32 [D, D], E (x - center)^T (x - center); None beyond the memory bound.
      outputs: float64 [O, O], the same of x W; None where `inputs` says it.
      rows: inputs that were seen.
    """

    center: np.ndarray
    inputs: np.ndarray | None
    outputs: np.ndarray | None
    rows: int


class MomentAccumulator:
    """Adds up the moments of rows that come in batches.

    They are taken about the first batch's mean, so that a mean much larger than the
    deviation does not eat up the precision.
    """

    def __init__(self, kernel: np.ndarray, keeps_inputs: bool):
        """Args:
        kernel: [H, W, I, O].
        keeps_inputs: gather D x D numbers, and not O x O ones.
        """
        matrix = kernel.reshape(-1, kernel.shape[3])
        self._kernel = np.asarray(matrix, np.result_type(np.float32, matrix.dtype))
        size = matrix.shape[0 if keeps_inputs else 1]
        self._keeps_inputs = keeps_inputs
        self._total = np.zeros((size, size), np.float32 if keeps_inputs else np.float64)
        self._sum = np.zeros(matrix.shape[0])
        self._energy = self._mass = 0.0
        self._origin: np.ndarray | None = None
        self.rows = 0

    def add(self, rows: np.ndarray, weight: float = 1.0) -> None:
        """Takes in some rows, [n, D], each of which counts as `weight` rows."""
        if not len(rows):
            return
        rows = np.asarray(rows, self._kernel.dtype)
        if self._origin is None:
            self._origin = rows.mean(axis=0)
        rows = rows - self._origin
        self._sum += weight * rows.sum(axis=0, dtype=np.float64)
        self._energy += weight * float(np.vdot(rows, rows))
        self._mass += weight * len(rows)
        self.rows += len(rows)
        seen = rows if self._keeps_inputs else rows @ self._kernel
        self._total += weight * (seen.T @ seen)

    def finish(self, centred: bool = True, shrinkage: float | None = None) -> Moments:
        """Returns the moments of all rows.

        Args:
          centred: take them about the mean input, else about zero.
          shrinkage: share of the identity (times the mean variance) that is mixed into
            the input moment; as `shrinkage_for` has it when None. Few rows would
            otherwise make directions that they do not show look free.

        Raises:
          ValueError: no row came in.
        """
        if self._origin is None:
            raise ValueError("no rows to take moments of")
        origin, count = self._origin.astype(np.float64), self._mass
        shift = self._sum / count
        center = origin + shift if centred else np.zeros_like(origin)
        # About c: E (x-o)(x-o)' - s s' about the mean, then + (mean - c)(mean - c)'.
        beyond = origin + shift - center
        moment = self._total / count
        for vector, sign in ((shift, -1.0), (beyond, 1.0)):
            if not self._keeps_inputs:
                vector = vector @ self._kernel
            moment += np.outer(sign * vector, vector).astype(moment.dtype)
        variance = self._energy / count - float(shift @ shift) + float(beyond @ beyond)
        variance = max(variance, 0.0) / len(origin)
        share = shrinkage_for(moment, self.rows) if shrinkage is None else shrinkage
        if self._keeps_inputs:
            moment *= 1 - share
            moment.ravel()[:: len(moment) + 1] += share * variance
            return Moments(center, moment, None, self.rows)
        gram = self._kernel.T @ self._kernel
        return Moments(center, None, (1 - share) * moment + share * variance * gram, self.rows)


def shrinkage_for(moment: np.ndarray, rows: int) -> float:
    """Returns how much of the identity to mix into a sample covariance of `rows` rows.

      rho = ((1 - 2/p) tr(S^2) + tr(S)^2) / ((n + 1 - 2/p) (tr(S^2) - tr(S)^2 / p))

    at most 1. It minimises the expected squared error for Gaussian rows.

    Args:
      moment: S, [p, p].
      rows: n.

    References:
      Chen, Wiesel, Eldar, Hero: Shrinkage Algorithms for MMSE Covariance Estimation,
      2010, Equation 23 (OAS).
    """
    size = len(moment)
    squares, trace = float(np.vdot(moment, moment)), float(np.trace(moment, dtype=np.float64))
    spread = squares - trace**2 / size
    if spread <= 0 or trace <= 0:
        return 1.0
    share = ((1 - 2 / size) * squares + trace**2) / ((rows + 1 - 2 / size) * spread)
    return float(min(1.0, share))
