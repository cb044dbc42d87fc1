"""Closed forms against enumeration of every draw, or quadrature where draws are continuous."""

import itertools

import numpy as np
import pytest
from scipy import integrate

from tfapprox.errors import UserError
from tfapprox.sampling.column_row import Sample, approximate_product, estimate
from tfapprox.sampling.expected_error import (
    error_bound,
    expected_squared_error,
    pair_gram,
    plain_sum_wins,
)
from tfapprox.sampling.probabilities import (
    keep_probabilities,
    pair_weights,
    probabilities,
    winners,
)
from tfapprox.sampling.variants import VARIANTS


def factors(n=5, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, n)) + shift, rng.normal(size=(n, 4)) + shift


def every_draw(name, a, b, k, scale, mix=0.0):
    """Yields (probability, sample) over all outcomes of the variant, from its definition."""
    variant, n = VARIANTS[name], a.shape[1]
    weights = pair_weights(a, b)
    p = np.full(n, 1 / n) if variant.weighting == "uniform" else weights / weights.sum()
    if variant.selection == "largest":
        yield 1.0, Sample(np.argsort(-weights)[:k], np.ones(k))
    elif variant.selection == "independent":
        p = (1 - mix) * p + mix / n
        for draw in itertools.product(range(n), repeat=k):
            index = np.array(draw)
            yield p[index].prod(), Sample(index, 1 / (k * p[index]) if scale else np.ones(k))
    elif variant.selection == "bernoulli":
        q = keep_probabilities(p, k, mix)
        for kept in itertools.product((False, True), repeat=n):
            chosen = np.flatnonzero(kept)
            chance = np.where(kept, q, 1 - q).prod()
            yield chance, Sample(chosen, 1 / q[chosen] if scale else np.ones(chosen.size))
    elif variant.selection == "winners":
        kept = winners(p, k)
        rest = np.setdiff1d(np.arange(n), kept)
        mass, draws = p[rest].sum(), k - kept.size
        for draw in itertools.product(rest, repeat=draws):
            index = np.array(draw)
            scales = np.concatenate([np.ones(kept.size), mass / (draws * p[index])])
            yield (p[index] / mass).prod(), Sample(np.concatenate([kept, index]), scales)
    elif variant.weighting == "uniform":
        subsets = list(itertools.combinations(range(n), k))
        for subset in subsets:
            scales = np.full(k, n / k if scale else 1.0)
            yield 1 / len(subsets), Sample(np.array(subset), scales)


CASES = [
    (name, scale)
    for name, variant in VARIANTS.items()
    for scale in variant.scales
    if scale != "auto" and name != "nps"
]


@pytest.mark.parametrize("name, scale", CASES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_closed_form_equals_enumeration(name, scale, k):
    a, b = factors(shift=0.3)
    outcomes = list(every_draw(name, a, b, k, scale))
    assert np.isclose(sum(chance for chance, _ in outcomes), 1)
    expected = sum(c * np.sum((a @ b - estimate(a, b, s)) ** 2) for c, s in outcomes)
    actual = expected_squared_error(pair_gram(a, b), VARIANTS[name], pair_weights(a, b), k, scale)
    assert np.isclose(actual, expected, rtol=1e-9)


@pytest.mark.parametrize("name", [n for n, s in CASES if s is True])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_scaled_estimates_are_unbiased(name, k):
    a, b = factors(seed=1)
    outcomes = every_draw(name, a, b, k, scale=True)
    mean = sum(chance * estimate(a, b, sample) for chance, sample in outcomes)
    np.testing.assert_allclose(mean, a @ b, atol=1e-9)


@pytest.mark.parametrize("name", ["nps_replacement", "bernoulli"])
def test_mixing_with_uniform_stays_unbiased_and_its_error_is_known(name):
    a, b = factors(seed=2)
    outcomes = list(every_draw(name, a, b, 2, True, mix=0.25))
    mean = sum(chance * estimate(a, b, sample) for chance, sample in outcomes)
    np.testing.assert_allclose(mean, a @ b, atol=1e-9)
    expected = sum(c * np.sum((a @ b - estimate(a, b, s)) ** 2) for c, s in outcomes)
    actual = expected_squared_error(
        pair_gram(a, b), VARIANTS[name], pair_weights(a, b), 2, True, mix=0.25
    )
    assert np.isclose(actual, expected)


def successive_outcomes(p, k):
    """Yields (density, kept, t) of {first k arrivals} = kept and the (k+1)-th arriving at t."""
    n = p.size
    for kept in itertools.combinations(range(n), k):
        others = [i for i in range(n) if i not in kept]
        rate = p[others].sum()
        for_kept = p[list(kept)]
        yield (lambda t, q=for_kept, r=rate: r * np.exp(-r * t) * np.prod(-np.expm1(-q * t))), kept


def test_successive_draws_scaled_by_the_threshold_are_unbiased_with_the_closed_forms_error():
    a, b = factors(n=4, seed=3)
    gram, p = pair_gram(a, b), probabilities(pair_weights(a, b))
    for k in (2, 3):
        mean, squared = np.zeros(4), 0.0
        for density, kept in successive_outcomes(p, k):
            index = list(kept)

            def error(t, index=index):
                miss = -np.ones(4)
                miss[index] += 1 / -np.expm1(-p[index] * t)
                return miss @ gram @ miss

            squared += integrate.quad(
                lambda t, f=density, g=error: f(t) * g(t), 0, np.inf, limit=400
            )[0]
            for i in kept:
                mean[i] += integrate.quad(
                    lambda t, f=density, i=i: f(t) / -np.expm1(-p[i] * t), 0, np.inf, limit=400
                )[0]
        np.testing.assert_allclose(mean, 1, atol=1e-6)
        actual = expected_squared_error(gram, VARIANTS["nps"], pair_weights(a, b), k, True)
        assert np.isclose(actual, squared, rtol=1e-5)


def test_the_table_of_the_papers_formulas_follows_from_the_moments():
    a, b = factors(n=6, seed=4)
    weights, k, n = pair_weights(a, b), 3, 6
    total, squares, product = weights.sum(), np.sum(weights**2), np.sum((a @ b) ** 2)
    q = keep_probabilities(weights / total, k)
    table = {
        "uniform_replacement": n * squares / k - product / k,
        "uniform": n**2 * (1 - k / n) / (k * (n - 1)) * (squares - product / n),
        "nps_replacement": (total**2 - product) / k,
        "bernoulli": np.sum((1 / q - 1) * weights**2),
    }
    for name, formula in table.items():
        actual = expected_squared_error(pair_gram(a, b), VARIANTS[name], weights, k, True)
        assert np.isclose(actual, formula), name


def test_winner_take_all_beats_norm_proportional_sampling_when_few_pairs_dominate():
    a, b = factors(n=12, seed=5)
    a[:, :3] *= 10
    args = (pair_weights(a, b), 6, True)
    gram = pair_gram(a, b)
    wta = expected_squared_error(gram, VARIANTS["winner_take_all"], *args)
    assert wta < 0.5 * expected_squared_error(gram, VARIANTS["nps_replacement"], *args)


def test_error_of_norm_proportional_sampling_stays_below_theorem_1():
    for shift in (0.0, 1.0):
        a, b = factors(n=20, seed=6, shift=shift)
        for k in (1, 4, 16):
            squared = expected_squared_error(
                pair_gram(a, b), VARIANTS["nps_replacement"], pair_weights(a, b), k, True
            )
            bound = error_bound(k) * np.linalg.norm(a) * np.linalg.norm(b)
            assert np.sqrt(squared) <= bound


def test_successive_draws_keep_all_pairs_at_k_equal_n_and_refuse_what_has_no_closed_form():
    a, b = factors()
    np.testing.assert_allclose(
        approximate_product(a, b, VARIANTS["nps"], 5, np.random.default_rng(0), True), a @ b
    )
    for k, scale in ((2, False), (1, True)):
        with pytest.raises(UserError, match="successive"):
            expected_squared_error(pair_gram(a, b), VARIANTS["nps"], pair_weights(a, b), k, scale)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5, 1.0])
def test_auto_scale_picks_the_smaller_of_the_two_errors_for_uniform_subsets(shift):
    a, b = factors(n=40, seed=7, shift=shift)
    gram = pair_gram(a, b)
    for k in (4, 20, 30):
        args = gram, VARIANTS["uniform"], pair_weights(a, b), k
        plain_better = expected_squared_error(*args, False) < expected_squared_error(*args, True)
        assert plain_sum_wins(gram.sum(), np.trace(gram), 40, k) == plain_better
