"""Empirical variational Bayes matrix factorization: how many singular values are no noise."""

import numpy as np
from scipy import optimize

from tfapprox.accounting.geometry import Pair

_GRID = 257  # points in ln(sigma^2) that the search for its minima starts from
_BLOCK = 2**20  # entries of one evaluation of the objective
# Singular values of a float32 kernel are rounding below this share of the largest one.
_ROUNDING = float(np.finfo(np.float32).eps)


def evbmf_rank(values: np.ndarray, shape: Pair) -> int:
    """Returns the number of singular values that stand out of the noise.

      rank = #{ h : g_h > sqrt(M sigma^2 x_low) }

    with sigma^2 the global minimiser of the free energy, see `noise_variance`. The
    rank is always below min(shape), 0 for a matrix of pure noise (a random initial
    kernel) and for a zero matrix, and it does not depend on the matrix's scale.

    Args:
      values: [min(shape)], all singular values g_h of the matrix.
      shape: of the matrix, either way round.

    Raises:
      ValueError: the number of values is not the shorter side of `shape`.

    References:
      Nakajima, Sugiyama, Babacan, Tomioka: Global Analytic Solution of Fully-observed
      Variational Bayesian Matrix Factorization, JMLR 2013, Theorem 2 and Corollary 1.
    """
    if len(values) != min(shape):
        raise ValueError(f"a {shape} matrix has {min(shape)} singular values, got {len(values)}")
    variance = noise_variance(values, shape)
    threshold = np.sqrt(max(shape) * variance * _threshold(min(shape) / max(shape)))
    return int(np.count_nonzero(np.asarray(values, np.float64) > threshold))


def noise_variance(values: np.ndarray, shape: Pair) -> float:
    """Returns the variance sigma^2 of the noise in one matrix entry, by empirical Bayes.

    With L <= M the sides, alpha = L / M and x_h = g_h^2 / (M sigma^2), it minimises

      Omega(sigma^2) = sum_h (x_h - ln x_h)
        + sum_{x_h > x_low} [ ln(tau_h + 1) + alpha ln(tau_h / alpha + 1) - tau_h ]
      tau(x) = (x - (1 + alpha) + sqrt((x - (1 + alpha))^2 - 4 alpha)) / 2

    We depart from the usual implementations in three ways. The matrix is scaled to
    mean square 1 and the search runs in ln(sigma^2), so scale changes nothing. Omega
    has several local minima: a grid finds them, each is refined and the lowest wins.
    Values are held above float32 rounding, so that a matrix without noise has one.

    Args:
      values: [L], all singular values.
      shape: of the matrix, either way round.

    Returns:
      sigma^2 in the units of the matrix entries squared; 0 for a zero matrix.

    References:
      Nakajima et al. 2013, Theorem 2 (the objective and the bounds on sigma^2).
    """
    short, long = min(shape), max(shape)
    squares = np.square(np.sort(np.asarray(values, np.float64))[::-1])
    mean_square = squares.sum() / (short * long)
    if mean_square == 0.0:
        return 0.0
    squares = np.maximum(squares, squares[0] * _ROUNDING**2) / mean_square
    lowest, highest = _bounds(squares, long)
    grid = np.linspace(np.log(lowest), np.log(highest), _GRID)
    energies = free_energy(grid, squares, long)
    padded = np.concatenate([[np.inf], energies, [np.inf]])
    minima = np.flatnonzero((energies <= padded[:-2]) & (energies <= padded[2:]))
    best = min(
        (_refine(grid, index, squares, long) for index in minima.tolist()), key=lambda pair: pair[0]
    )
    return float(np.exp(best[1]) * mean_square)


def free_energy(log_variances: np.ndarray, squares: np.ndarray, long: int) -> np.ndarray:
    """Returns Omega, float64 [n], at each ln(sigma^2).

    Args:
      log_variances: [n].
      squares: [L], squared singular values, all positive.
      long: the longer side M.
    """
    alpha = len(squares) / long
    low = _threshold(alpha)
    step = max(1, _BLOCK // len(squares))
    pieces = []
    for start in range(0, len(log_variances), step):
        x = squares / (long * np.exp(log_variances[start : start + step, None]))
        energy = x - np.log(x)
        root = np.square(np.maximum(x, low) - (1 + alpha)) - 4 * alpha
        tau = (np.maximum(x, low) - (1 + alpha) + np.sqrt(root)) / 2
        gain = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
        pieces.append(np.sum(energy + np.where(x > low, gain, 0.0), axis=1))
    return np.concatenate(pieces)


def _threshold(alpha: float) -> float:
    """Returns x_low = (1 + tau)(1 + alpha / tau), tau the root of the bracket in Omega.

    The literature's tau ~= 2.5129 sqrt(alpha) is this root to a few per cent; with the
    root itself Omega is continuous.
    """
    tau = optimize.brentq(
        lambda t: np.log1p(t) + alpha * np.log1p(t / alpha) - t, np.sqrt(alpha), 20 * np.sqrt(alpha)
    )
    return (1 + tau) * (1 + alpha / tau)


def _bounds(squares: np.ndarray, long: int) -> tuple[float, float]:
    """Returns the interval that holds the minimiser, for a matrix of mean square 1."""
    short = len(squares)
    alpha = short / long
    most = min(int(np.ceil(short / (1 + alpha))) - 1, short - 1)
    lowest = max(squares[most] / (long * _threshold(alpha)), np.mean(squares[most:]) / long)
    highest = squares.sum() / (short * long)
    return min(lowest, highest), highest


def _refine(grid: np.ndarray, index: int, squares: np.ndarray, long: int) -> tuple[float, float]:
    """Returns the lowest Omega near a grid point, and the ln(sigma^2) it is at."""

    def energy(log_variance: float) -> float:
        return float(free_energy(np.array([log_variance]), squares, long)[0])

    here = (energy(grid[index]), float(grid[index]))
    bounds = (grid[max(index - 1, 0)], grid[min(index + 1, len(grid) - 1)])
    if bounds[0] == bounds[1]:
        return here
    found = optimize.minimize_scalar(
        energy, bounds=bounds, method="bounded", options={"xatol": 1e-9}
    )
    return min(here, (float(found.fun), float(found.x)))
