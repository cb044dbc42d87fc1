import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.strategies import divisors, kernels
from tfapprox.decompositions.unfolding import (
    distinct_schemes,
    fold_left,
    fold_right,
    matrix_shape,
    unfold,
)

# The spec's table: which axes belong to the left side, f times what.
HEIGHT_LEFT, WIDTH_LEFT = {1, 3}, {2, 3}


@given(kernels(), st.integers(0, 3), st.data())
def test_every_entry_lands_where_the_scheme_says(kernel, scheme, data):
    height, width, in_channels, out_channels = kernel.shape
    slices = data.draw(divisors(in_channels))
    matrices = unfold(kernel, scheme, slices)
    size = in_channels // slices
    tall, wide = scheme in HEIGHT_LEFT, scheme in WIDTH_LEFT
    for h, w, i, o in itertools.product(*map(range, kernel.shape)):
        row, column = 0, 0
        for taps, tap, left in ((height, h, tall), (width, w, wide)):
            row = row * taps + tap if left else row
            column = column if left else column * taps + tap
        entry = matrices[i // size, row * out_channels + o, column * size + i % size]
        assert entry == kernel[h, w, i, o]
    assert matrices.shape == (slices, *matrix_shape(kernel.shape, scheme, slices))


@given(kernels(), st.integers(0, 3), st.data())
def test_folding_the_sides_back_gives_the_stages_of_the_product(kernel, scheme, data):
    slices = data.draw(divisors(kernel.shape[2]))
    matrices = unfold(kernel, scheme, slices)
    first = fold_right(np.stack([np.eye(matrices.shape[2])] * slices), kernel.shape[:2], scheme)
    second = fold_left(matrices, kernel.shape[:2], scheme)
    rank = matrices.shape[2]
    composed = np.zeros_like(kernel)
    for i in range(slices):
        part = slice(i * rank, (i + 1) * rank)
        channels = slice(i * kernel.shape[2] // slices, (i + 1) * kernel.shape[2] // slices)
        composed[:, :, channels] = np.einsum(
            "hwir,xyro->hxwyio", first[..., part], second[:, :, part]
        ).reshape(composed[:, :, channels].shape)
    np.testing.assert_array_equal(composed, kernel)


def test_unfolding_a_dense_kernel_copies_nothing():
    kernel = np.zeros((1, 1, 6, 4), np.float32)
    assert np.shares_memory(unfold(kernel, 0), kernel)


@pytest.mark.parametrize(
    ("kernel_size", "expected"),
    [((1, 1), (0,)), ((1, 3), (0, 2)), ((5, 1), (0, 1)), ((3, 2), (0, 1, 2, 3))],
)
def test_axes_of_one_tap_leave_fewer_schemes(kernel_size, expected):
    assert distinct_schemes(kernel_size) == expected


@pytest.mark.parametrize("kernel_size", [(1, 1), (1, 3), (5, 1), (3, 2)])
def test_schemes_left_out_have_the_spectrum_of_one_that_stays(kernel_size):
    kernel = np.random.default_rng(0).standard_normal((*kernel_size, 4, 3))
    spectra = [np.linalg.svd(unfold(kernel, s)[0], compute_uv=False) for s in range(4)]
    for spectrum in spectra:
        stays = [spectra[s] for s in distinct_schemes(kernel_size)]
        assert any(len(s) == len(spectrum) and np.allclose(s, spectrum) for s in stays)


def test_schemes_the_user_did_not_ask_for_are_not_offered():
    assert distinct_schemes((3, 3), (2, 0)) == (0, 2)
    assert distinct_schemes((1, 1), (3,)) == (3,)
