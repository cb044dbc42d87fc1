"""EVBMF by exhaustion: the free energy term by term, at very many noise variances."""

import functools
import math

POINTS = 801


def free_energy(values, shape, variance):
    """Returns Omega(sigma^2) as printed, for a matrix of any scale."""
    short, long = min(shape), max(shape)
    alpha = short / long
    low = _threshold(alpha)
    total = 0.0
    for value in values:
        x = value**2 / (long * variance)
        total += x - math.log(x)
        if x > low:
            y = x - (1 + alpha)
            tau = 0.5 * (y + math.sqrt(y**2 - 4 * alpha))
            total += math.log(tau + 1) + alpha * math.log(tau / alpha + 1) - tau
    return total


def rank(values, shape):
    """Returns (rank, sigma^2) at the lowest of POINTS evenly spaced ln(sigma^2)."""
    short, long = min(shape), max(shape)
    top = sum(value**2 for value in values) / (short * long)
    bottom = max(min(values) ** 2 / (10 * long), top * 1e-12)
    variances = [bottom * (top / bottom) ** (i / (POINTS - 1)) for i in range(POINTS)]
    best = min(variances, key=lambda variance: free_energy(values, shape, variance))
    low = _threshold(short / long)
    return sum(value**2 > long * best * low for value in values), best


def local_minima(values, shape):
    """Counts the local minima of the free energy on the grid."""
    short, long = min(shape), max(shape)
    top = sum(value**2 for value in values) / (short * long)
    bottom = min(values) ** 2 / long
    variances = [bottom * (top / bottom) ** (i / 400) for i in range(401)]
    energies = [free_energy(values, shape, variance) for variance in variances]
    neighbours = zip(energies, energies[1:], energies[2:], strict=False)
    return sum(b < a and b < c for a, b, c in neighbours)


@functools.cache
def _threshold(alpha):
    """Returns x_low, its tau found by halving an interval."""
    below, above = math.sqrt(alpha), 20 * math.sqrt(alpha)
    for _ in range(200):
        tau = (below + above) / 2
        positive = math.log(tau + 1) + alpha * math.log(tau / alpha + 1) - tau > 0
        below, above = (tau, above) if positive else (below, tau)
    return (1 + tau) * (1 + alpha / tau)
