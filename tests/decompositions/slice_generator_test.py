import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.slices import generated_kernel
from tfapprox.decompositions.slice_generator import (
    SliceShape,
    assemble,
    fit_generator,
    partition,
    project,
    shared_curve,
    truncated_svd,
)
from tfapprox.errors import UserError

sizes = st.tuples(*[st.integers(1, 5)] * 4)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@given(sizes, sizes)
def test_assembling_the_partition_gives_the_kernel_back(kernel_shape, steps):
    shape = SliceShape(*steps)
    kernel = normal(*kernel_shape)
    slices = partition(kernel, shape)
    assert slices.shape == (shape.count(kernel_shape), shape.size)
    np.testing.assert_array_equal(assemble(slices, shape, kernel_shape), kernel)


@pytest.mark.parametrize("kernel_shape", [(3, 3, 4, 6), (3, 2, 5, 7), (1, 1, 3, 2), (5, 4, 2, 2)])
def test_blocks_lie_where_a_slow_reference_puts_them(kernel_shape):
    shape = SliceShape(out_channels=3, in_channels=2, height=3, width=2)
    codes, generator = normal(shape.count(kernel_shape), 4), normal(4, *shape.hwio, seed=1)
    made = assemble(codes @ generator.reshape(4, -1), shape, kernel_shape)
    np.testing.assert_allclose(
        made, generated_kernel(codes, generator, kernel_shape), rtol=0, atol=1e-12
    )


def test_a_full_size_generator_reproduces_any_kernels():
    shape = SliceShape(2, 3, 2, 2)
    kernels = [normal(3, 3, 4, 5), normal(1, 1, 7, 2, seed=1)]
    found = fit_generator(kernels, shape, shape.size)
    # Orthogonal products of 24 terms: a few roundings.
    assert max(found.errors) < 1e-13


def test_a_given_square_invertible_generator_reproduces_any_kernel():
    shape = SliceShape(2, 3, 2, 2)
    kernel, generator = normal(3, 3, 4, 5), normal(shape.size, *shape.hwio, seed=1)
    found = project([kernel], shape, generator)
    # Rounding is amplified by the condition number of a random 24 x 24 matrix, below 1e4.
    assert found.errors[0] < 1e-11


def test_the_error_is_the_discarded_spectrum_of_all_slices_together():
    shape = SliceShape(2, 2, 3, 3)
    kernels = [normal(3, 3, 4, 4), normal(3, 3, 4, 8, seed=1), normal(3, 3, 8, 8, seed=2)]
    spectrum = np.linalg.svd(
        np.concatenate([partition(kernel, shape) for kernel in kernels]), compute_uv=False
    )
    norms = np.array([np.linalg.norm(kernel) for kernel in kernels])
    for code_size in (1, 5, 20):
        found = fit_generator(kernels, shape, code_size)
        total = np.sum((np.array(found.errors) * norms) ** 2)
        np.testing.assert_allclose(total, np.sum(spectrum[code_size:] ** 2), rtol=1e-10)


def test_free_padding_entries_lower_the_error_of_fractional_partitions():
    shape = SliceShape(3, 3, 3, 3)
    kernels = [normal(3, 3, 4, 4, seed=seed) for seed in range(6)]
    padded = np.concatenate([partition(kernel, shape) for kernel in kernels])
    codes, basis = truncated_svd(padded, 5)
    ends = np.cumsum([len(partition(kernel, shape)) for kernel in kernels])[:-1]
    zero_filled = sum(
        np.sum((kernel - assemble(part @ basis, shape, kernel.shape)) ** 2)
        for kernel, part in zip(kernels, np.split(codes, ends), strict=True)
    )
    found = fit_generator(kernels, shape, 5)
    norms = np.array([np.linalg.norm(kernel) for kernel in kernels])
    assert np.sum((np.array(found.errors) * norms) ** 2) < 0.9 * zero_filled


def test_projecting_on_the_fitted_generator_gives_its_errors_again():
    shape = SliceShape(2, 2, 3, 3)
    kernels = [normal(3, 3, 4, 4), normal(3, 3, 4, 8, seed=1)]
    found = fit_generator(kernels, shape, 6)
    again = project(kernels, shape, found.generator)
    np.testing.assert_allclose(again.errors, found.errors, rtol=1e-10)


@given(st.integers(1, 12), st.integers(1, 8))
def test_the_basis_is_orthonormal_for_any_number_of_slices(rows, rank):
    codes, basis = truncated_svd(normal(rows, 8), rank)
    np.testing.assert_allclose(basis @ basis.T, np.eye(rank), atol=1e-12)
    assert codes.shape == (rows, rank)


@pytest.mark.parametrize("code_size", [0, 37])
def test_a_code_longer_than_a_slice_is_refused(code_size):
    with pytest.raises(UserError, match="between 1 and the 36 entries"):
        fit_generator([normal(3, 3, 2, 2)], SliceShape(2, 2, 3, 3), code_size)


def test_the_shared_curve_is_the_largest_error_of_every_code_size():
    shape = SliceShape(2, 2, 3, 3)
    kernels = [normal(3, 3, 4, 4), 9 * normal(3, 3, 8, 8, seed=1)]
    curve = shared_curve(kernels, shape)
    assert (len(curve.errors), curve.slices) == (36, 4 + 16)
    for size in (1, 7, 19, 36):
        errors = fit_generator(kernels, shape, size).errors
        np.testing.assert_allclose(curve.errors[size - 1], max(errors), atol=1e-7)
    rows = np.concatenate([partition(kernel, shape) for kernel in kernels])
    spectrum = np.linalg.svd(rows, compute_uv=False)
    np.testing.assert_allclose(curve.values[:20], spectrum, atol=1e-9)


def test_impossible_slices_and_missing_kernels_are_refused():
    with pytest.raises(UserError, match="at least 1"):
        SliceShape(0, 2, 3, 3)
    with pytest.raises(UserError, match="at least one kernel"):
        fit_generator([], SliceShape(2, 2), 1)
