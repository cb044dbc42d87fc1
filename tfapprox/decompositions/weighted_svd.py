"""Two stages that lose least of a site's output on calibration data, in closed form.

The first stage A takes the leading directions of what the data make of the kernel; the
second, B, is the least-squares regression of the outputs on what A lets through. The
directions come in order, so that one Cholesky factorization of the moments between
them, rank by rank, gives the regression and its error for every rank at once:

  Z = L L^T = moment of the first stage's outputs, G = L^-1 E[z^T y],
  E||y - z B_r||^2 = E||y||^2 - sum of squares of the rows of G that belong to ranks <= r.

With scheme 0 and one slice that is the reduced-rank regression of y on x, and optimal. In
other schemes and with slices A is optimal for each slice and tap by itself, B for all.

References:
  Izenman: Reduced-Rank Regression for the Multivariate Linear Model, 1975;
  Zhang et al.: Accelerating Very Deep Convolutional Networks, 2015, Section 3.1 (PCA
  of the outputs), which is scheme 0.
"""

import dataclasses

import numpy as np
import scipy.linalg

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.decompositions.unfolding import (
    fold_left,
    fold_right,
    held_taps,
    left_axes,
    right_axes,
    unfold,
)

_JITTER = 1e-11  # of the mean diagonal, where a moment is singular


@dataclasses.dataclass(frozen=True, eq=False)
class WeightedSvd:
    """The closed form for every rank up to R.

    Attributes:
      first: float64 [slices, D, R], the first stage's columns in order of importance.
      rows: float64 [R, slices, taps, O], what the regression explains, rank by rank.
      root: float64 [R k T, R k T], Cholesky factor L of the first stage's output moment.
      energy: E||y||^2.
      scheme, kernel_size: the unfolding.
    """

    first: np.ndarray
    rows: np.ndarray
    root: np.ndarray
    energy: float
    scheme: int
    kernel_size: tuple[int, int]

    def residual_norms(self, ranks: np.ndarray) -> np.ndarray:
        """Returns sqrt(E||y - y_hat||^2), float64 [n], for every rank of `ranks`."""
        explained = np.cumsum(np.square(self.rows).sum(axis=(1, 2, 3)))
        left = self.energy - np.append(0.0, explained)
        # From the small end the sum is exact where the difference is rounding.
        return np.sqrt(np.maximum(left, 0.0))[ranks]

    def factorization(self, rank: int, dtype: np.dtype) -> Factorization:
        """Returns the two stages, each rank's norm split evenly between them."""
        slices, _, _ = self.first.shape
        size = self.rows[:rank].size // self.rows.shape[-1]
        flat = self.rows[:rank].reshape(size, -1)
        second = scipy.linalg.solve_triangular(self.root[:size, :size], flat, trans=1, lower=True)
        second = second.reshape(self.rows[:rank].shape).transpose(1, 2, 3, 0)
        second = second.reshape(slices, -1, rank)
        first = self.first[:, :, :rank]
        norms = [np.sqrt(np.square(x).sum(axis=1, keepdims=True)) for x in (first, second)]
        small = max(float(n.max()) for n in norms) * 1e-12 or 1.0
        scale = np.sqrt(np.maximum(norms[1], small) / np.maximum(norms[0], small))
        inner = fold_right(first * scale, self.kernel_size, self.scheme)
        outer = fold_left(second / scale, self.kernel_size, self.scheme)
        return Factorization(
            (
                Stage(_stored(inner, dtype), slices, right_axes(self.scheme)),
                Stage(_stored(outer, dtype), 1, left_axes(self.scheme)),
            )
        )


def weighted_svd(
    kernel: np.ndarray, moment: np.ndarray, scheme: int, slices: int, most: int
) -> WeightedSvd:
    """Returns the closed form for a kernel and its input moment.

    Args:
      kernel: [H, W, I, O].
      moment: [H W I, H W I], positive semidefinite.
      scheme, slices: of the unfolding; see `unfolding`.
      most: largest rank that is asked for.
    """
    moment = moment.astype(np.float64)
    targets = moment @ kernel.reshape(len(moment), -1)
    energy = float(np.vdot(kernel.reshape(targets.shape), targets))
    places = _places(kernel.shape, scheme, slices)
    matrices = unfold(kernel, scheme, slices).astype(np.float64)
    first = [
        _leading_columns(matrix, _block_moment(moment, own), most)
        for matrix, own in zip(matrices, places, strict=True)
    ]
    cross = np.stack(
        [
            np.stack([moment[:, tap] @ columns for tap in own], axis=-1)
            for columns, own in zip(first, places, strict=True)
        ],
        axis=-2,
    )  # [D, R, slices, taps]
    size = cross[0].size
    cross = cross.reshape(len(moment), size)
    inner, outputs = np.empty((size, size)), np.empty((size, kernel.shape[3]))
    rank, taps = first[0].shape[1], places.shape[1]
    order = np.arange(size).reshape(rank, slices, taps)
    for i, columns in enumerate(first):
        for t in range(taps):
            inner[order[:, i, t]] = columns.T @ cross[places[i, t]]
            outputs[order[:, i, t]] = columns.T @ targets[places[i, t]]
    inner.ravel()[:: size + 1] += _JITTER * max(float(np.trace(inner)) / size, 1e-300)
    root = scipy.linalg.cholesky(inner, lower=True, overwrite_a=True, check_finite=False)
    rows = scipy.linalg.solve_triangular(root, outputs, lower=True, check_finite=False)
    shape = (rank, slices, taps, kernel.shape[3])
    return WeightedSvd(np.stack(first), rows.reshape(shape), root, energy, scheme, kernel.shape[:2])


def weighted_svd_of_outputs(kernel: np.ndarray, outputs: np.ndarray, most: int) -> WeightedSvd:
    """Returns the closed form of scheme 0 in one slice, which needs the outputs' moment alone.

    W_hat = (W V) V^T with the leading eigenvectors V of E[y^T y], and the error is the
    tail of the eigenvalues.

    Args:
      kernel: W, [H, W, I, O].
      outputs: E[y^T y], [O, O].
      most: largest rank that is asked for.
    """
    matrix = kernel.reshape(-1, kernel.shape[3]).astype(np.float64)
    size = min(most, *matrix.shape)
    vectors = _top_vectors(outputs, size)
    spread = np.sqrt(np.maximum(np.einsum("or,or->r", vectors, outputs @ vectors), 0.0))
    rows = (spread[:, None] * vectors.T).reshape(size, 1, 1, -1)
    first = matrix @ vectors / _positive(spread)
    return WeightedSvd(
        first[None], rows, np.eye(size), float(np.trace(outputs)), 0, kernel.shape[:2]
    )


def _stored(factor: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(factor.astype(dtype))


def _places(shape: tuple[int, ...], scheme: int, slices: int) -> np.ndarray:
    """Returns int [slices, left taps, D'], where a slice's inputs are for one left tap."""
    height, width, channels, _ = shape
    index = np.arange(height * width * channels).reshape(height, width, slices, channels // slices)
    left = [axis for axis in (0, 1) if left_axes(scheme)[axis]]
    right = [axis for axis in (0, 1) if not left_axes(scheme)[axis]]
    taps = int(np.prod(held_taps((height, width), left_axes(scheme))))
    return index.transpose(2, *left, *right, 3).reshape(slices, taps, -1)


def _block_moment(moment: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns the moment of the first stage's inputs, added up over the left taps."""
    total = np.zeros((places.shape[1],) * 2)
    for tap in places:
        total += moment[np.ix_(tap, tap)]
    return total


def _leading_columns(matrix: np.ndarray, moment: np.ndarray, most: int) -> np.ndarray:
    """Returns A [D', R]: the leading principal components of x W^T are in its span.

    Args:
      matrix: W, [F, D'].
      moment: of x, [D', D'].
    """
    most = min(most, *matrix.shape)
    if len(matrix) <= len(moment):
        columns = matrix.T @ _top_vectors(matrix @ (moment @ matrix.T), most)
    else:
        lifted = moment.copy()
        lifted.ravel()[:: len(moment) + 1] += _JITTER * max(np.trace(moment) / len(moment), 1e-300)
        root = scipy.linalg.cholesky(lifted, lower=True, check_finite=False)
        image = matrix @ root
        columns = matrix.T @ (image @ _top_vectors(image.T @ image, most))
    spread = np.sqrt(np.maximum(np.einsum("dr,dr->r", columns, moment @ columns), 0.0))
    return columns / _positive(spread)


def _positive(spread: np.ndarray) -> np.ndarray:
    """Returns deviations to divide by, 1 in the place of zeros and what is rounding."""
    return np.where(spread > 1e-12 * spread.max(initial=0.0), spread, 1.0)


def _top_vectors(matrix: np.ndarray, count: int) -> np.ndarray:
    """Returns the eigenvectors of the `count` largest eigenvalues, largest first."""
    size = len(matrix)
    _, vectors = scipy.linalg.eigh(
        matrix, subset_by_index=(size - count, size - 1), check_finite=False
    )
    return vectors[:, ::-1]
