import dataclasses

import numpy as np
import pytest
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.crs_conv2d import CRSConv2D
from tfapprox.layers.crs_dense import CRSDense
from tfapprox.layers.crs_einsum_dense import CRSEinsumDense
from tfapprox.sampling.settings import Sampling
from tfapprox.training.keep_shares import (
    expected_kernels,
    fold_keep_shares,
    keep_shares,
    kept_channels,
)

QUARTER = Sampling(forward_ratio=0.25)
LAYERS = {
    "dense": (CRSDense, (16,), {"units": 3}),
    "conv2d": (CRSConv2D, (5, 5, 16), {"filters": 3, "kernel_size": 3}),
    "einsum": (CRSEinsumDense, (4, 4), {"equation": "abc,bcd->ad", "output_shape": (3,)}),
}


def model_of(kind, sampling=QUARTER):
    layer_type, shape, options = LAYERS[kind]
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input(shape), layer_type(**options, sampling=sampling)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def batches(kind, count):
    rng = np.random.default_rng(2)
    for _ in range(count):
        # Every batch has heavy channels of its own.
        weights = (
            rng.permutation(np.geomspace(0.01, 10, 16)).reshape(LAYERS[kind][1][-2:], order="A")
            if kind == "einsum"
            else rng.permutation(np.geomspace(0.01, 10, 16))
        )
        x = (rng.normal(size=(8, *LAYERS[kind][1])) * weights).astype(np.float32)
        shape = {"conv2d": (8, 3, 3, 3)}.get(kind, (8, 3))
        yield x, rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_heaviest_channels_are_kept(kind):
    model, ((x, y),) = model_of(kind), batches(kind, 1)
    kernel = model.layers[0].kernel.numpy()
    rows = kernel.reshape(16, -1) if kind == "einsum" else np.moveaxis(kernel, -2, 0)
    columns = x.reshape(-1, 16)
    weights = np.linalg.norm(columns, axis=0) * np.linalg.norm(rows.reshape(16, -1), axis=1)
    (kept,) = kept_channels(model, x, y)
    assert set(np.flatnonzero(kept)) == set(np.argsort(-weights)[:4])


@pytest.mark.parametrize(
    "settings",
    [
        {"backward_ratio": 0.25, "min_samples": 1, "gradient_variant": "nps"},
        {"mode": "forward_only"},
        {"sparse_gradient": True},
    ],
    ids=["sampled gradients", "full gradients", "sparse gradients"],
)
def test_the_kept_channels_do_not_depend_on_what_gradients_see(settings):
    plain, other = (
        model_of("dense", s) for s in (QUARTER, dataclasses.replace(QUARTER, **settings))
    )
    ((x, y),) = batches("dense", 1)
    np.testing.assert_array_equal(kept_channels(plain, x, y), kept_channels(other, x, y))
    assert other.layers[0].sampling == dataclasses.replace(QUARTER, **settings)


@pytest.mark.parametrize("kind", LAYERS)
def test_of_a_single_batch_the_expected_product_is_the_sampled_one(kind):
    model, ((x, y),) = model_of(kind), batches(kind, 1)
    sampled, exact = model(x, training=True), model(x)
    assert not np.allclose(sampled, exact, rtol=1e-3)
    with expected_kernels(model, [(x, y)]):
        np.testing.assert_allclose(model(x), sampled, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model(x), exact)


def test_rows_shrink_by_the_share_of_batches_that_keep_them():
    model, parts = model_of("dense"), list(batches("dense", 4))
    (shares,) = keep_shares(model, parts)
    assert set(shares) <= {0, 0.25, 0.5, 0.75, 1}
    assert shares.sum() == pytest.approx(4)
    kernel = model.layers[0].kernel.numpy()
    fold_keep_shares(model, parts)
    np.testing.assert_allclose(model.layers[0].kernel, kernel * shares[:, None], rtol=1e-6)


@pytest.mark.parametrize(
    "sampling",
    [Sampling("nps", 0.25, scale=True), Sampling(backward_ratio=0.25), Sampling()],
    ids=["scaled", "backward only", "exact"],
)
def test_what_is_exact_on_average_stays_as_it_is_and_needs_no_batches(sampling):
    model = model_of("dense", sampling)
    kernel = model.layers[0].kernel.numpy()
    with expected_kernels(model, iter(())):
        np.testing.assert_array_equal(model.layers[0].kernel, kernel)


def test_kernels_come_back_after_an_error():
    model = model_of("dense")
    kernel = model.layers[0].kernel.numpy()
    with pytest.raises(RuntimeError), expected_kernels(model, batches("dense", 1)):
        raise RuntimeError
    np.testing.assert_array_equal(model.layers[0].kernel, kernel)


def test_a_network_trained_on_plain_sums_evaluates_better_with_expected_kernels():
    # Of 64 noisy inputs, 8 heavy ones carry the class; the others' rows stay at their start.
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 512)
    x = rng.normal(size=(512, 64)).astype(np.float32)
    x[:, :8] += 1.5 * (2 * y[:, None] - 1)
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomNormal(stddev=1.0)
    layer = CRSDense(2, sampling=Sampling(forward_ratio=0.125), kernel_initializer=wide)
    model = keras.Sequential([keras.Input((64,)), layer])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=3, verbose=0)
    plain = model.evaluate(x, y, verbose=0)[1]
    with expected_kernels(model, [(x[i : i + 64], y[i : i + 64]) for i in range(0, 512, 64)]):
        assert model.evaluate(x, y, verbose=0)[1] > plain + 0.02


@pytest.mark.parametrize(
    "given, found",
    [
        (next(batches("dense", 1)), "got a ndarray"),
        (next(batches("dense", 1))[0], "got a ndarray"),
        ([], "got none"),
    ],
    ids=["(x, y)", "x", "nothing"],
)
def test_arrays_in_the_place_of_batches_are_refused(given, found):
    for look in (keep_shares, fold_keep_shares):
        with pytest.raises(UserError, match=f"{found}.*give pairs"):
            look(model_of("dense"), given)
