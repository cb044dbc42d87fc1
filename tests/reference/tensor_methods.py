"""Convolution kernels and tensor decompositions written out, slow and obvious."""

import numpy as np


def decaying_kernel(shape, decay=0.7, seed=0, dtype=np.float32):
    """Returns a kernel [H, W, I, O] whose channel unfoldings have falling spectra."""
    generator = np.random.default_rng(seed)
    in_channels, out_channels = shape[2:]
    core = generator.normal(size=shape)
    core *= np.arange(1, in_channels + 1)[:, None] ** -decay
    core *= np.arange(1, out_channels + 1) ** -decay
    rotate_in = np.linalg.qr(generator.normal(size=(in_channels, in_channels)))[0]
    rotate_out = np.linalg.qr(generator.normal(size=(out_channels, out_channels)))[0]
    return (rotate_in @ core @ rotate_out).astype(dtype)


def relative_frobenius(kernel, approximation):
    return np.linalg.norm(kernel - approximation) / np.linalg.norm(kernel)


def tucker2(kernel, rank_in, rank_out, sweeps):
    """Returns the approximation by HOOI with full SVDs of explicit unfoldings."""
    kernel = kernel.astype(np.float64)

    def left_vectors(tensor, axis, rank):
        matrix = np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)
        return np.linalg.svd(matrix, full_matrices=True)[0][:, :rank]

    basis_in = left_vectors(kernel, 2, rank_in)
    basis_out = left_vectors(kernel, 3, rank_out)
    for _ in range(sweeps):
        basis_in = left_vectors(np.einsum("hwio,or->hwir", kernel, basis_out), 2, rank_in)
        basis_out = left_vectors(np.einsum("hwio,ir->hwro", kernel, basis_in), 3, rank_out)
    core = np.einsum("hwio,ir,os->hwrs", kernel, basis_in, basis_out)
    return np.einsum("hwrs,ir,os->hwio", core, basis_in, basis_out)


def run_stages(image, factorization):
    """Returns the output of the stages on [height, width, channels], VALID, stride 1."""
    for stage in factorization.stages:
        if stage.input_order is not None:
            image = np.stack([image[..., channel] for channel in stage.input_order], axis=-1)
        image = grouped_convolution(image, stage.kernel, stage.groups)
    order = factorization.output_order
    if order is not None:
        image = np.stack([image[..., channel] for channel in order], axis=-1)
    return image


def grouped_convolution(image, kernel, groups=1):
    """Returns the VALID convolution of [height, width, I] with [H, W, I / groups, O]."""
    taps_y, taps_x, fan_in, out_channels = kernel.shape
    fan_out = out_channels // groups
    height, width = image.shape[0] - taps_y + 1, image.shape[1] - taps_x + 1
    result = np.zeros((height, width, out_channels))
    for channel in range(out_channels):
        first = (channel // fan_out) * fan_in
        for y in range(height):
            for x in range(width):
                patch = image[y : y + taps_y, x : x + taps_x, first : first + fan_in]
                result[y, x, channel] = np.sum(patch * kernel[..., channel])
    return result


def sum_of_terms(height, width, inputs, outputs):
    """Returns the kernel of rank-one terms, one term after the other."""
    kernel = 0.0
    for term in range(height.shape[1]):
        vectors = [factor[:, term] for factor in (height, width, inputs, outputs)]
        kernel = kernel + np.einsum("h,w,i,o->hwio", *vectors)
    return kernel


def least_squares_sweep(kernel, factors):
    """Returns (inputs, outputs, height, width) after each is fitted in turn, by lstsq."""
    factors = dict(zip("hwio", factors, strict=True))
    for axis in "iohw":
        others = [name for name in "hwio" if name != axis]
        columns = np.einsum(
            ",".join(f"{name}r" for name in others) + "->" + "".join(others) + "r",
            *(factors[name] for name in others),
        )
        rank = columns.shape[-1]
        targets = np.moveaxis(kernel, "hwio".index(axis), -1).reshape(-1, len(factors[axis]))
        factors[axis] = np.linalg.lstsq(columns.reshape(-1, rank), targets, rcond=None)[0].T
    return tuple(factors[name] for name in "hwio")


def border_rank_kernel(seed=0):
    """Returns a kernel of rank 4 that terms of rank 2 approach, but only by cancelling.

    The sum of all orders of (a, a, a, b) is the derivative of the outer power of a + t b.
    """
    generator = np.random.default_rng(seed)
    bases = [np.linalg.qr(generator.normal(size=(4, 4)))[0][:, :2] for _ in range(4)]
    kernel = np.zeros((4, 4, 4, 4))
    for place in range(4):
        vectors = [basis[:, int(axis == place)] for axis, basis in enumerate(bases)]
        kernel += np.einsum("h,w,i,o->hwio", *vectors)
    return kernel
