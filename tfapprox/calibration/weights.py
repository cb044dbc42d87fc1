"""Inner products of kernels that say how much each change of a kernel matters."""

from typing import Protocol

import numpy as np

from tfapprox.calibration.moments import Moments


class Weight(Protocol):
    """A quadratic form on kernels: ||W||^2 = <W, apply(W)>.

    Attributes:
      inputs: [D, D], D = H W I, where the form is tr(W' M W) with this M; else None.
      outputs: [O, O], W' M W of the site's own kernel where M itself is not known.
      sensitivity: relative error of the model's outputs per relative error in this norm.
    """

    inputs: np.ndarray | None
    outputs: np.ndarray | None
    sensitivity: float

    def apply(self, kernel: np.ndarray) -> np.ndarray:
        """Returns the form's matrix times a kernel [H, W, I, O], float64."""
        ...


class CovarianceWeight:
    """||W||^2 = E||(x - c) W||^2: the energy of the outputs that a kernel gives.

    So the weight of W - W_hat is the squared error of the site's output, but for what a
    bias makes up.

    References:
      Denton et al. 2014, Section 3.1 (data covariance distance).
    """

    def __init__(self, moments: Moments, sensitivity: float = 1.0):
        self.inputs, self.outputs = moments.inputs, moments.outputs
        self.sensitivity = sensitivity

    def apply(self, kernel: np.ndarray) -> np.ndarray:
        """Returns M W."""
        assert self.inputs is not None
        product = self.inputs @ kernel.reshape(len(self.inputs), -1).astype(self.inputs.dtype)
        return product.astype(np.float64).reshape(kernel.shape)


class DiagonalWeight:
    """||W||^2 = sum (alpha W)^2, with alpha_p^2 the squared gradients by entry p, added up.

    References:
      Denton et al. 2014, Section 3.1 (Mahalanobis distance, diagonal).
    """

    inputs: np.ndarray | None = None
    outputs: np.ndarray | None = None
    sensitivity = 1.0

    def __init__(self, squares: np.ndarray):
        """Args: squares: alpha^2, [H, W, I, O]."""
        # Entries that no example moves are not free: a thousandth of the mean is left.
        self._squares = squares + 1e-3 * (float(squares.mean()) or 1.0)

    def apply(self, kernel: np.ndarray) -> np.ndarray:
        """Returns alpha^2 W."""
        return self._squares * kernel


def weighted_norm(weight: Weight, kernel: np.ndarray) -> float:
    """Returns ||W|| of a kernel [H, W, I, O]."""
    return float(np.sqrt(max(0.0, float(np.vdot(kernel, weight.apply(kernel))))))
