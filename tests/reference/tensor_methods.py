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
