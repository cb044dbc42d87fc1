import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from tests.reference import finite_differences
from tfapprox.errors import UserError
from tfapprox.ops.approx_matmul import approx_matmul
from tfapprox.sampling.settings import Sampling

SEED = tf.constant([3, 4])


def factors(m=6, n=8, p=5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, n)).astype(dtype), rng.normal(size=(n, p)).astype(dtype)


def run(x, w, sampling, dy=None, **kwargs):
    """Returns y, dX, dW as arrays, for the loss sum(dY * y)."""
    x, w = tf.constant(x), tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = approx_matmul(x, w, sampling, SEED, **kwargs)
        loss = tf.reduce_sum(y if dy is None else dy * y)
    gradients = tape.gradient(loss, [x, w])
    return y.numpy(), *(None if g is None else tf.convert_to_tensor(g).numpy() for g in gradients)


def top(weights, k):
    return np.sort(np.argsort(-weights)[:k])


def test_with_all_ratios_one_the_product_and_gradients_are_tensorflows_bit_for_bit():
    x, w = factors(33, 65, 17, dtype=np.float32)
    dy = factors(33, 17, 1, seed=1, dtype=np.float32)[0]
    x_t, w_t = tf.constant(x), tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch([x_t, w_t])
        y = tf.matmul(x_t, w_t)
        loss = tf.reduce_sum(dy * y)
    for actual, expected in zip(
        run(x, w, Sampling(), dy), [y, *tape.gradient(loss, [x_t, w_t])], strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling("topk", 0.5),
        Sampling("topk", 0.5, sparse_gradient=True),
        Sampling("topk", 1.0, threshold=0.6),
        Sampling("uniform", 0.5, scale=True),
        Sampling("nps_replacement", 0.7, scale=True),
        Sampling("bernoulli", 0.5, scale=True),
        Sampling("winner_take_all", 0.5, scale=True),
    ],
    ids=str,
)
def test_gradients_are_those_of_the_sampled_product_with_the_draw_held_fixed(sampling):
    x, w = factors()
    dy = factors(6, 5, 1, seed=1)[0]
    y, dx, dw = run(x, w, sampling, dy)
    # The product is linear in x for a fixed draw: y = x D w with D diagonal.
    counted = np.linalg.lstsq(
        np.stack([np.outer(x[:, i], w[i]).ravel() for i in range(8)], 1), y.ravel(), rcond=None
    )[0]

    def loss_of_x(point):
        return np.sum(dy * ((point * counted) @ w))

    def loss_of_w(point):
        return np.sum(dy * ((x * counted) @ point))

    # Round-off of central differences at step 1e-6 is 1e-9 or so; scales are float32.
    np.testing.assert_allclose(dx, finite_differences.gradient(loss_of_x, x), atol=1e-6)
    np.testing.assert_allclose(dw, finite_differences.gradient(loss_of_w, w), atol=1e-6)


def test_top_k_sums_the_heaviest_pairs_and_drops_the_gradients_of_the_rest():
    x, w = factors()
    kept = top(np.linalg.norm(x, axis=0) * np.linalg.norm(w, axis=1), 4)
    dropped = np.setdiff1d(np.arange(8), kept)
    y, dx, dw = run(x, w, Sampling(forward_ratio=0.5))
    np.testing.assert_allclose(y, x[:, kept] @ w[kept])
    assert np.all(dx[:, dropped] == 0)
    assert np.all(dw[dropped] == 0)
    assert np.all(dx[:, kept] != 0)


def test_nested_gradients_sample_out_features_for_dx_and_examples_for_dw():
    x, w = factors(m=30, n=8, p=24)
    dy = factors(30, 24, 1, seed=1)[0]
    kept = top(np.linalg.norm(x, axis=0) * np.linalg.norm(w, axis=1), 4)
    outs = top(np.linalg.norm(dy, axis=0) * np.linalg.norm(w[kept], axis=0), 12)
    examples = top(np.linalg.norm(x[:, kept], axis=1) * np.linalg.norm(dy, axis=1), 15)
    expected_dx, expected_dw = np.zeros_like(x), np.zeros_like(w)
    expected_dx[:, kept] = dy[:, outs] @ w[kept][:, outs].T
    expected_dw[kept] = x[examples][:, kept].T @ dy[examples]
    _, dx, dw = run(x, w, Sampling(forward_ratio=0.5, backward_ratio=0.5), dy)
    np.testing.assert_allclose(dx, expected_dx, atol=1e-12)
    np.testing.assert_allclose(dw, expected_dw, atol=1e-12)


def test_sampled_gradients_keep_the_minimum_number_of_samples():
    x, w = factors(m=12, n=4, p=11)
    exact = run(x, w, Sampling())
    # Both contractions keep max(11, int(0.1 * size)); that is all of p but not of m.
    _, dx, dw = run(x, w, Sampling(backward_ratio=0.1, min_samples=11))
    np.testing.assert_allclose(dx, exact[1])
    assert not np.allclose(dw, exact[2])


def test_forward_only_sampling_has_the_exact_gradients():
    x, w = factors()
    y, dx, dw = run(x, w, Sampling(forward_ratio=0.5, mode="forward_only"))
    exact = run(x, w, Sampling())
    assert not np.allclose(y, exact[0])
    np.testing.assert_allclose(dx, exact[1])
    np.testing.assert_allclose(dw, exact[2])


def test_meprop_keeps_the_largest_columns_of_dy_in_both_gradients():
    x, w = factors(m=6, n=4, p=20)
    dy = factors(6, 20, 1, seed=1)[0]
    columns = top(np.linalg.norm(dy, axis=0), 10)
    y, dx, dw = run(x, w, Sampling(mode="meprop", backward_ratio=0.1), dy)
    expected = np.zeros_like(w)
    expected[:, columns] = x.T @ dy[:, columns]
    np.testing.assert_allclose(y, x @ w)
    np.testing.assert_allclose(dx, dy[:, columns] @ w[:, columns].T)
    np.testing.assert_allclose(dw, expected)


def test_choice_by_weights_ignores_the_data():
    x, w = factors()
    x[:, 0] *= 1e6
    w[0] *= 1e-6
    y, _, dw = run(x, w, Sampling(forward_ratio=0.5, probabilities="weights"))
    kept = top(np.linalg.norm(w, axis=1), 4)
    assert 0 not in kept
    np.testing.assert_allclose(y, x[:, kept] @ w[kept])
    np.testing.assert_array_equal(np.flatnonzero(dw.any(axis=1)), kept)


@pytest.mark.parametrize("variant", ["uniform", "nps"])
def test_scaled_gradients_average_to_the_exact_ones_whatever_the_forward_variant(variant):
    x, w = factors(m=14, n=6, p=14)
    dy = factors(14, 14, 1, seed=1)[0]
    sampling = Sampling(backward_ratio=0.8, gradient_variant=variant)
    x_t, w_t = tf.constant(x), tf.constant(w)

    @tf.function
    def gradients(i):
        with tf.GradientTape() as tape:
            tape.watch([x_t, w_t])
            loss = tf.reduce_sum(dy * approx_matmul(x_t, w_t, sampling, tf.stack([i, 9])))
        return tuple(tape.gradient(loss, [x_t, w_t]))

    runs = 2000
    many = tf.map_fn(gradients, tf.range(runs), fn_output_signature=(tf.float64, tf.float64))
    for drawn, expected in zip(many, run(x, w, Sampling(), dy)[1:], strict=True):
        error = np.abs(drawn.numpy().mean(0) - expected)
        # 6 standard errors over 168 entries.
        assert np.all(error <= 6 * drawn.numpy().std(0) / np.sqrt(runs) + 1e-12)


def test_auto_scale_is_unbiased_scaling_for_positive_factors_and_plain_for_centred_ones():
    sampling = {s: Sampling("uniform", 0.25, scale=s) for s in (True, False, "auto")}
    for shift, chosen in ((1.0, True), (0.0, False)):
        x, w = factors(m=30, n=64, p=30, seed=5)
        results = {s: run(x + shift, w + shift, sampling[s])[0] for s in sampling}
        np.testing.assert_allclose(results["auto"], results[chosen], rtol=1e-6)
        np.testing.assert_allclose(results[True], 4 * results[False])


def test_any_leading_dimensions_and_unknown_batch():
    x, w = factors(m=12)
    sampling = Sampling(forward_ratio=0.5)
    flat = approx_matmul(x, w, sampling)
    product = tf.function(lambda x: approx_matmul(x, w, sampling)).get_concrete_function(
        tf.TensorSpec([None, 3, 8], tf.float64)
    )
    assert product.output_shapes.as_list() == [None, 3, 5]
    np.testing.assert_allclose(product(tf.reshape(x, [4, 3, 8])), tf.reshape(flat, [4, 3, 5]))


def test_xla_gives_the_same_product_and_gradients():
    sampling = Sampling("topk", 0.5, 0.5)
    x, w = factors(m=24, n=32, p=24, dtype=np.float32)

    def both(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = approx_matmul(x, w, sampling, SEED)
            loss = tf.reduce_sum(y**2)
        return (y, *tape.gradient(loss, [x, w]))

    args = tf.constant(x), tf.constant(w)
    plain, compiled = tf.function(both)(*args), tf.function(both, jit_compile=True)(*args)
    for a, b in zip(plain, compiled, strict=True):
        # Sums of 32 float32 products, squared on the way.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_half_precision_weighs_pairs_without_overflow():
    x, w = factors(m=64, n=16, p=8)
    x = (x * 100).astype(np.float16)
    y, dx, dw = run(x, w.astype(np.float16), Sampling(forward_ratio=0.5))
    kept = top(np.linalg.norm(x.astype(float), axis=0) * np.linalg.norm(w, axis=1), 8)
    assert y.dtype == dx.dtype == dw.dtype == np.float16
    np.testing.assert_allclose(y, x[:, kept].astype(float) @ w[kept], rtol=0.02, atol=2)


def test_a_first_layer_gets_no_input_gradient():
    x, w = factors()
    _, dx, dw = run(x, w, Sampling(forward_ratio=0.5), input_gradient=False)
    assert dx is None
    assert dw.any()


def test_only_the_gathered_columns_are_kept_for_the_backward_pass():
    x, w = factors(m=12)

    def input_survives(sampling):
        w_t = tf.Variable(w)
        with tf.GradientTape() as tape:
            inner = tf.exp(tf.constant(x))
            alive = weakref.ref(inner)
            y = approx_matmul(inner, w_t, sampling, SEED)
            del inner
        gc.collect()
        survived = alive() is not None
        assert tape.gradient(y, w_t) is not None
        return survived

    assert input_survives(Sampling())
    assert not input_survives(Sampling(forward_ratio=0.5))
    assert not input_survives(Sampling("nps", 0.5, scale=True))


def test_what_does_not_fit_is_refused_by_name():
    x, w = factors()
    with pytest.raises(UserError, match="kernel"):
        approx_matmul(x, w.T, Sampling(forward_ratio=0.5))
    unknown = tf.TensorSpec([None, 8], tf.float64)
    nested = Sampling(forward_ratio=0.5, backward_ratio=0.5)
    with pytest.raises(UserError, match="drop_remainder"):
        tf.function(lambda x: approx_matmul(x, w, nested), autograph=False).get_concrete_function(
            unknown
        )
