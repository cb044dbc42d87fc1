"""Closed-form expected errors of the estimators, from moments of how often a pair is counted.

An estimate is sum_i c_i A^(i) B_(i) with random counts c. With the Gram matrix
G_ij = <A^(i) B_(i), A^(j) B_(j)>, mean mu and covariance V of c,

  E ||AB - estimate||_F^2 = (mu - 1)^T G (mu - 1) + trace(V G),

whose diagonal holds w_i^2 and whose sum is ||AB||_F^2. The table of formulas in
the papers follows by inserting each variant's moments.
"""

import numpy as np

from tfapprox.errors import UserError
from tfapprox.sampling.probabilities import keep_probabilities, probabilities, winners
from tfapprox.sampling.variants import Variant


def pair_gram(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns G_ij = <A^(i) B_(i), A^(j) B_(j)>_F, [n, n], for A [m, n] and B [n, p]."""
    return (a.T @ a) * (b @ b.T)


def count_moments(
    variant: Variant, weights: np.ndarray, k: int, scale: bool, mix: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean [n] and covariance [n, n] of the (scaled) count of each pair.

    Raises:
      UserError: plain sums of successive draws with unequal probabilities, which
        have no closed form, or scaled ones with k = 1, of infinite variance.
    """
    n = weights.size
    p = probabilities(weights, variant.weighting, mix)
    if k >= n:
        return np.ones(n), np.zeros((n, n))
    if variant.selection == "largest":
        mean = np.zeros(n)
        mean[np.argsort(-weights, kind="stable")[:k]] = 1
        return mean, np.zeros((n, n))
    if variant.selection == "independent":
        return _independent_moments(p, k, scale)
    if variant.selection == "bernoulli":
        q = keep_probabilities(probabilities(weights, variant.weighting), k, mix)
        return (np.ones(n), np.diag(1 / q - 1)) if scale else (q, np.diag(q * (1 - q)))
    if variant.selection == "winners":
        return _winner_moments(p, k)
    if variant.weighting == "uniform":
        return _subset_moments(n, k, scale)
    if not scale:
        raise UserError("no closed form for unscaled successive draws: average over draws instead")
    return _conditioned_moments(p, k)


def expected_squared_error(
    gram: np.ndarray,
    variant: Variant,
    weights: np.ndarray,
    k: int,
    scale: bool,
    mix: float = 0.0,
) -> float:
    """Returns E ||AB - estimate||_F^2 over the draws.

    Args:
      gram: [n, n], see `pair_gram`; for convolutions <I^[i] * K_[i], I^[j] * K_[j]>.
      weights: w_i the pairs are drawn by, [n].
    """
    mean, covariance = count_moments(variant, weights, k, scale, mix)
    return float((mean - 1) @ gram @ (mean - 1) + np.sum(covariance * gram))


def error_bound(k: int) -> float:
    """Returns 1 / sqrt(k) >= E ||AB - estimate||_F / (||A||_F ||B||_F).

    Holds for norm-proportional sampling with replacement, scaled.

    References: Drineas, Kannan, Mahoney, "Fast Monte Carlo Algorithms for Matrices I",
      2006, Theorem 1.
    """
    return 1 / np.sqrt(k)


def plain_sum_wins(product: float, diagonal: float, n: int, k: int) -> bool:
    """Returns whether plain sums beat scaled ones, for uniform subsets.

    The two errors, from the moments above, cross where
    C = (1 + r) / r * n / (n - 1) * (S - C / n), r = k / n. Zero means give C = S and
    plain sums; two non-zero means give C near n S and scaled ones.

    Args:
      product: C = ||AB||_F^2, or an estimate of it.
      diagonal: S = sum of w_i^2.
    """
    r = k / n
    spread = max(diagonal - product / n, 0.0) * n / (n - 1)
    return bool(product * r <= (1 + r) * spread)


def _independent_moments(p: np.ndarray, k: int, scale: bool) -> tuple[np.ndarray, np.ndarray]:
    if not scale:
        return k * p, k * (np.diag(p) - np.outer(p, p))
    # A pair of probability zero is never drawn and must carry no weight either.
    inverse = np.divide(1, p, out=np.zeros_like(p), where=p > 0)
    return np.ones_like(p), (np.diag(inverse) - 1) / k


def _subset_moments(n: int, k: int, scale: bool) -> tuple[np.ndarray, np.ndarray]:
    share = k / n
    variance = share * (1 - share)
    covariance = np.full((n, n), -variance / (n - 1))
    np.fill_diagonal(covariance, variance)
    factor = 1 / share if scale else 1.0
    return np.full(n, share * factor), covariance * factor**2


def _winner_moments(p: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    kept = winners(p, k)
    rest = np.setdiff1d(np.arange(p.size), kept)
    _, inner = _independent_moments(p[rest] / p[rest].sum(), k - kept.size, scale=True)
    covariance = np.zeros((p.size, p.size))
    covariance[np.ix_(rest, rest)] = inner
    return np.ones(p.size), covariance


def _conditioned_moments(p: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Moments of 1 / P(arrival before t) over successive draws, t the (k+1)-th arrival.

    Given the k-th arrival t among the others, pair i is kept with probability
    h(t) = 1 - exp(-p_i t), so its variance is E[1 / h(t)] - 1; by parts that is the
    integral of h'(t) / h(t)^2 P(at least k of the others came before t). Pairs are
    uncorrelated. With k = 1 the variance is infinite.

    References: Cohen and Kaplan, "Tighter Estimation using Bottom k Sketches", 2008.
    """
    if k == 1:
        raise UserError("scaled successive draws have infinite variance with k = 1: draw more")
    # The integrand is smooth in log t and dies away fast at both ends, where the
    # trapezoidal rule converges exponentially.
    step = 0.05
    time = np.exp(np.arange(np.log(1e-9 / p.max()), np.log(60 / p.min()), step))
    keep = -np.expm1(-np.outer(p, time))
    variance = np.empty(p.size)
    for i in range(p.size):
        came = _at_least(np.delete(keep, i, axis=0), k)
        variance[i] = step * np.sum(time * p[i] * (1 - keep[i]) / keep[i] ** 2 * came)
    return np.ones(p.size), np.diag(variance)


def _at_least(keep: np.ndarray, k: int) -> np.ndarray:
    """Returns P(at least k of the pairs have arrived), [nodes], from each pair's own."""
    counts = np.zeros((k + 1, keep.shape[1]))
    counts[0] = 1
    for arrived in keep:
        moving = counts[:-1] * arrived
        counts[:-1] -= moving
        counts[1:] += moving
    return counts[k]
