"""Kernels as matrices: which spatial axes go to the left and which to the right side.

A kernel [H, W, I, O] unfolds into k matrices [F, D], one for each slice of I / k
consecutive input channels. The left side F always has the output channels, the
right side D the slice's input channels; the scheme says where the taps go:

  scheme   left side F     right side D     first stage   second stage
  0        O               H W I/k          H x W         1 x 1
  1        H O             W I/k            1 x W         H x 1
  2        W O             H I/k            H x 1         1 x W
  3        H W O           I/k              1 x 1         H x W

Indices run in the order written, the last one fastest. (The paper writes the
channels first; the order within a side changes no spectrum and no factor.)

References:
  Liebenwein, Maalouf, Gal, Feldman, Rus: Compressing Neural Networks: Towards
  Determining the Optimal Layer-wise Decomposition, 2021, supplement, Section A.6.
"""

import math
from collections.abc import Sequence

import numpy as np

from tfapprox.accounting.geometry import Pair

# Scheme -> whether the left side, hence the second stage, holds height and width.
_LEFT_AXES = {0: (False, False), 1: (True, False), 2: (False, True), 3: (True, True)}

SCHEMES = tuple(_LEFT_AXES)


def left_axes(scheme: int) -> tuple[bool, bool]:
    """Returns which spatial axes (height, width) the left side, the second stage, holds."""
    return _LEFT_AXES[scheme]


def right_axes(scheme: int) -> tuple[bool, bool]:
    """Returns which spatial axes (height, width) the right side, the first stage, holds."""
    height, width = _LEFT_AXES[scheme]
    return not height, not width


def held_taps(kernel_size: Pair, axes: tuple[bool, bool]) -> Pair:
    """Returns the kernel size of a stage that holds `axes`: 1 on an axis it does not hold."""
    return (kernel_size[0] if axes[0] else 1, kernel_size[1] if axes[1] else 1)


def matrix_shape(shape: tuple[int, ...], scheme: int, slices: int = 1) -> Pair:
    """Returns (F, D) of each slice's matrix for a kernel of `shape` [H, W, I, O]."""
    kernel_size = (shape[0], shape[1])
    left = math.prod(held_taps(kernel_size, left_axes(scheme)))
    right = math.prod(held_taps(kernel_size, right_axes(scheme)))
    return left * shape[3], right * shape[2] // slices


def distinct_schemes(kernel_size: Pair, schemes: Sequence[int] = SCHEMES) -> tuple[int, ...]:
    """Returns those of `schemes` that unfold a kernel of this size into different matrices.

    An axis with one tap may go to either side: a 1x1 kernel has one unfolding, an
    Hx1 or 1xW kernel two. Of equal ones the lowest number is kept, because its first
    stage takes over the strides, so that it is never the dearer one.
    """
    by_taps: dict[Pair, int] = {}
    for scheme in sorted(schemes):
        by_taps.setdefault(held_taps(kernel_size, left_axes(scheme)), scheme)
    return tuple(by_taps.values())


def unfold(kernel: np.ndarray, scheme: int, slices: int = 1) -> np.ndarray:
    """Returns the kernel's matrices, [slices, F, D]; a view where the layout allows.

    Args:
      kernel: [H, W, I, O].
      scheme: 0 to 3, see the table above.
      slices: number k of channel slices; divides I.
    """
    height, width, in_channels, out_channels = kernel.shape
    blocks = kernel.reshape(height, width, slices, in_channels // slices, out_channels)
    left = [axis for axis in (0, 1) if left_axes(scheme)[axis]]
    right = [axis for axis in (0, 1) if not left_axes(scheme)[axis]]
    rows, columns = matrix_shape(kernel.shape, scheme, slices)
    transposed = blocks.transpose(2, *right, 3, *left, 4).reshape(slices, columns, rows)
    return transposed.swapaxes(1, 2)


def fold_right(factors: np.ndarray, kernel_size: Pair, scheme: int) -> np.ndarray:
    """Returns the first stage's kernel, [H or 1, W or 1, I / k, k R].

    Args:
      factors: [slices, D, R]. Slice i reads input channels block i and writes
        output channels block i of a convolution with k groups.
      kernel_size: (H, W) of the whole kernel.
      scheme: 0 to 3.
    """
    slices, columns, rank = factors.shape
    height, width = held_taps(kernel_size, right_axes(scheme))
    blocks = factors.reshape(slices, height, width, columns // (height * width), rank)
    return blocks.transpose(1, 2, 3, 0, 4).reshape(height, width, -1, slices * rank)


def fold_left(factors: np.ndarray, kernel_size: Pair, scheme: int) -> np.ndarray:
    """Returns the second stage's kernel, [H or 1, W or 1, k R, O].

    Args:
      factors: [slices, F, R].
      kernel_size: (H, W) of the whole kernel.
      scheme: 0 to 3.
    """
    slices, rows, rank = factors.shape
    height, width = held_taps(kernel_size, left_axes(scheme))
    blocks = factors.reshape(slices, height, width, rows // (height * width), rank)
    return blocks.transpose(1, 2, 0, 4, 3).reshape(height, width, slices * rank, -1)
