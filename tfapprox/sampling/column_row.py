"""Column-row sampling of a matrix product: draw pairs, scale them, add them up."""

import dataclasses

import numpy as np

from tfapprox.errors import UserError
from tfapprox.sampling.probabilities import keep_probabilities, pair_weights, probabilities, winners
from tfapprox.sampling.variants import Variant


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """Drawn pairs: indices, int [k] (repeated when drawn with replacement), and scales, [k]."""

    indices: np.ndarray
    scales: np.ndarray


def draw(
    variant: Variant,
    weights: np.ndarray,
    k: int,
    rng: np.random.Generator,
    scale: bool = False,
    mix: float = 0.0,
) -> Sample:
    """Returns k drawn pairs; Bernoulli sampling returns k on average.

    The scale of a pair makes the sum over drawn pairs unbiased: 1 / (k p_i) with
    replacement, n / k for uniform subsets, 1 / q_i for Bernoulli. Successive draws
    without replacement use 1 / P(log p_i + Gumbel > t), t the (k+1)-th largest
    value: Eq. 1's 1 / (k p_i) would be biased here.

    Args:
      weights: w_i >= 0, [n].
      scale: see above; False gives scale 1.

    References: Adelman and Silberstein, 2018, Eq. 1 and section 3.1; Duffield, Lund,
      Thorup, "Priority sampling", 2007, section 2 (scales conditioned on the
      threshold); Kool et al., "Stochastic Beams and Where to Find Them", 2019, Eq. 16.
    """
    if scale not in variant.scales:
        raise UserError(f"this sampling takes scale {variant.scales}, got {scale}")
    n = weights.size
    p = probabilities(weights, variant.weighting, mix)
    if k >= n:
        return Sample(np.arange(n), np.ones(n))
    if variant.selection == "largest":
        indices = np.argsort(-weights, kind="stable")[:k]
        scales = np.ones(k)
    elif variant.selection == "independent":
        indices = rng.choice(n, k, p=p)
        scales = 1 / (k * p[indices])
    elif variant.selection == "bernoulli":
        q = keep_probabilities(probabilities(weights, variant.weighting), k, mix)
        indices = np.flatnonzero(rng.random(n) < q)
        scales = 1 / q[indices]
    elif variant.selection == "winners":
        indices, scales = _draw_winners(p, k, rng)
    else:
        indices, scales = _draw_successive(p, k, rng, uniform=variant.weighting == "uniform")
    return Sample(indices, scales if scale else np.ones_like(scales))


def estimate(a: np.ndarray, b: np.ndarray, sample: Sample) -> np.ndarray:
    """Returns sum_t scale_t A^(i_t) B_(i_t), [m, p], for A [m, n] and B [n, p]."""
    return (a[:, sample.indices] * sample.scales) @ b[sample.indices]


def approximate_product(
    a: np.ndarray,
    b: np.ndarray,
    variant: Variant,
    k: int,
    rng: np.random.Generator,
    scale: bool = False,
) -> np.ndarray:
    """Returns an estimate of A B from k column-row pairs weighted by Eq. 3."""
    return estimate(a, b, draw(variant, pair_weights(a, b), k, rng, scale))


def _draw_winners(p: np.ndarray, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    kept = winners(p, k)
    rest = p.copy()
    rest[kept] = 0
    rest /= rest.sum()
    drawn = rng.choice(p.size, k - kept.size, p=rest)
    scales = np.concatenate([np.ones(kept.size), 1 / ((k - kept.size) * rest[drawn])])
    return np.concatenate([kept, drawn]), scales


def _draw_successive(
    p: np.ndarray, k: int, rng: np.random.Generator, uniform: bool
) -> tuple[np.ndarray, np.ndarray]:
    # Arrival times with rate p: their order is that of successive draws, and
    # -log(time) is log p + Gumbel noise.
    with np.errstate(divide="ignore"):
        arrival = rng.exponential(size=p.size) / p
    order = np.argsort(arrival)
    indices = order[:k]
    if uniform:
        return indices, np.full(k, p.size / k)
    return indices, 1 / -np.expm1(-p[indices] * arrival[order[k]])
