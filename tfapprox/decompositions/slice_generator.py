"""Convolution kernels cut into slices, and the best linear generator of the slices.

Kernels are [height, width, in, out] (HWIO). Slices of all kernels have one shape and
form one matrix, a row each; a generator of code size n_c is a basis of n_c rows:
slices = codes @ generator. Kernels that the slice shape does not divide are padded at
the far end of each axis; the padding is cut away again, so its entries are free.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.linalg

from tfapprox.errors import UserError

_IMPUTATIONS = 20


@dataclasses.dataclass(frozen=True)
class SliceShape:
    """Shape of a slice in the order of the paper: out, in, height, width."""

    out_channels: int
    in_channels: int
    height: int = 1
    width: int = 1

    def __post_init__(self):
        if min(self.hwio) < 1:
            raise UserError(f"slice sizes must be at least 1, got {dataclasses.astuple(self)}")

    @property
    def hwio(self) -> tuple[int, int, int, int]:
        """The shape in the layout of kernels."""
        return self.height, self.width, self.in_channels, self.out_channels

    @property
    def size(self) -> int:
        """Entries of a slice."""
        return int(np.prod(self.hwio))

    def grid(self, kernel_shape: Sequence[int]) -> tuple[int, int, int, int]:
        """Returns how many slices cover a kernel [H, W, I, O] along each axis."""
        counts = [-(-size // step) for size, step in zip(kernel_shape, self.hwio, strict=True)]
        return counts[0], counts[1], counts[2], counts[3]

    def count(self, kernel_shape: Sequence[int]) -> int:
        """Returns how many slices, hence codes, a kernel has."""
        return int(np.prod(self.grid(kernel_shape)))


@dataclasses.dataclass(frozen=True, eq=False)
class SliceFit:
    """A generator for several kernels, and their codes.

    Attributes:
      slice_shape: shape of the slices.
      generator: [code size, height, width, in, out], orthonormal rows.
      codes: per kernel [slices, code size].
      errors: per kernel, relative Frobenius error of the generated kernel.
    """

    slice_shape: SliceShape
    generator: np.ndarray
    codes: tuple[np.ndarray, ...]
    errors: tuple[float, ...]


def partition(kernel: np.ndarray, slice_shape: SliceShape) -> np.ndarray:
    """Returns the slices of a kernel, zero-padded, as rows [slices, slice size].

    Slices are ordered by block row, block column, block of inputs, block of outputs.
    """
    grid, steps = slice_shape.grid(kernel.shape), slice_shape.hwio
    missing = [n * step - size for n, step, size in zip(grid, steps, kernel.shape, strict=True)]
    padded = np.pad(kernel, [(0, count) for count in missing])
    blocks = padded.reshape([x for pair in zip(grid, steps, strict=True) for x in pair])
    return blocks.transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, slice_shape.size)


def assemble(
    slices: np.ndarray, slice_shape: SliceShape, kernel_shape: Sequence[int]
) -> np.ndarray:
    """Returns the kernel [H, W, I, O] made of `slices`, the inverse of `partition`."""
    grid = slice_shape.grid(kernel_shape)
    blocks = slices.reshape(*grid, *slice_shape.hwio).transpose(0, 4, 1, 5, 2, 6, 3, 7)
    padded = blocks.reshape([n * s for n, s in zip(grid, slice_shape.hwio, strict=True)])
    height, width, in_channels, out_channels = kernel_shape
    return padded[:height, :width, :in_channels, :out_channels]


def fit_generator(
    kernels: Sequence[np.ndarray], slice_shape: SliceShape, code_size: int
) -> SliceFit:
    """Returns the linear generator with the least squared error over all kernels.

    Where the slice shape divides every kernel, that is the truncated singular value
    decomposition of the matrix of all slices (Eckart and Young 1936), the optimum.
    Padding entries are free, so otherwise the decomposition is repeated with the
    previous answer filled in for them, which never raises the error.

    Args:
      kernels: [H, W, I, O] each.
      slice_shape: of every slice.
      code_size: n_c, rows of the generator.

    Raises:
      UserError: code_size exceeds the slice size, or there are no kernels.

    References:
      Omidvar et al. 2021, eq. 1 (the generator; it is trained there, not fitted);
      Mazumder, Hastie and Tibshirani 2010 (filling in free entries).
    """
    if not kernels:
        raise UserError("a slice generator needs at least one kernel to fit")
    check_code_size(code_size, slice_shape)
    rows = [partition(kernel, slice_shape).astype(np.float64) for kernel in kernels]
    fixed = [partition(np.ones(kernel.shape, bool), slice_shape) for kernel in kernels]
    matrix, known = np.concatenate(rows), np.concatenate(fixed)
    codes, basis = truncated_svd(matrix, code_size)
    if not known.all():
        for _ in range(_IMPUTATIONS):
            codes, basis = truncated_svd(np.where(known, matrix, codes @ basis), code_size)
    ends = np.cumsum([len(x) for x in rows])[:-1]
    split = tuple(np.split(codes, ends))
    generator = basis.reshape(code_size, *slice_shape.hwio)
    errors = tuple(
        _relative_error(kernel, assemble(code @ basis, slice_shape, kernel.shape))
        for kernel, code in zip(kernels, split, strict=True)
    )
    return SliceFit(slice_shape, generator, split, errors)


def project(
    kernels: Sequence[np.ndarray], slice_shape: SliceShape, generator: np.ndarray
) -> SliceFit:
    """Returns the best codes of each kernel for a given generator (least squares).

    Args:
      kernels: [H, W, I, O] each.
      slice_shape: of every slice.
      generator: [code size, height, width, in, out], any rows.
    """
    basis = generator.reshape(len(generator), slice_shape.size).astype(np.float64)
    codes, errors = [], []
    for kernel in kernels:
        rows = partition(kernel, slice_shape).astype(np.float64)
        known = partition(np.ones(kernel.shape, bool), slice_shape)
        code = _least_squares(rows, known, basis)
        made = assemble(code @ basis, slice_shape, kernel.shape)
        codes.append(code)
        errors.append(_relative_error(kernel, made))
    return SliceFit(slice_shape, generator, tuple(codes), tuple(errors))


@dataclasses.dataclass(frozen=True, eq=False)
class SharedCurve:
    """What codes of 1, 2, ... numbers lose.

    Attributes:
      errors: [slice size], the largest relative error of any kernel.
      values: [slice size], singular values of the matrix of all slices.
      slices: rows of that matrix.
    """

    errors: np.ndarray
    values: np.ndarray
    slices: int


def shared_curve(kernels: Sequence[np.ndarray], slice_shape: SliceShape) -> SharedCurve:
    """Returns the errors of all code sizes from one decomposition.

    They are exact where the slice shape divides all kernels. Otherwise padding entries are
    taken for zeros here, which can only make errors larger.
    """
    rows = [partition(kernel, slice_shape).astype(np.float64) for kernel in kernels]
    codes, _ = truncated_svd(np.concatenate(rows), slice_shape.size)
    ends = np.cumsum([len(x) for x in rows])[:-1]
    largest = np.zeros(slice_shape.size)
    for kernel, own in zip(kernels, np.split(codes, ends), strict=True):
        energy = np.sum(own**2, axis=0)
        tails = np.append(np.cumsum(energy[::-1])[::-1], 0.0)[1:]  # what codes of n numbers miss
        whole = float(np.sum(kernel.astype(np.float64) ** 2)) or 1.0
        largest = np.maximum(largest, np.sqrt(tails / whole))
    return SharedCurve(largest, np.sqrt(np.sum(codes**2, axis=0)), len(codes))


def check_code_size(code_size: int, slice_shape: SliceShape) -> None:
    """Raises UserError unless 1 <= code_size <= entries of a slice."""
    if not 1 <= code_size <= slice_shape.size:
        raise UserError(
            f"code_size must be between 1 and the {slice_shape.size} entries of a slice, "
            f"got {code_size}"
        )


def truncated_svd(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (codes [rows, rank], basis [rank, columns]) of the best rank-`rank` product.

    The basis has orthonormal rows, also where `rank` exceeds the matrix's own rank.
    """
    rows, columns = matrix.shape
    if 2 * rows <= columns or rank <= rows < columns:
        # Of few slices, reflections complete the basis at next to no cost.
        basis = scipy.linalg.svd(matrix, full_matrices=rank > rows)[2][:rank]
    else:
        # Many slices, or fewer than the rank: the eigenvectors of the small Gram matrix
        # are complete whatever the number of rows.
        chosen = (columns - rank, columns - 1)
        basis = scipy.linalg.eigh(matrix.T @ matrix, subset_by_index=chosen)[1].T[::-1]
    return matrix @ basis.T, basis


def _least_squares(rows: np.ndarray, known: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Solves one small problem for each pattern of known entries; patterns are few."""
    codes = np.empty((len(rows), len(basis)))
    patterns, which = np.unique(known, axis=0, return_inverse=True)
    for index, pattern in enumerate(patterns):
        chosen = which.ravel() == index
        solution = np.linalg.lstsq(basis[:, pattern].T, rows[chosen][:, pattern].T, rcond=None)
        codes[chosen] = solution[0].T
    return codes


def _relative_error(kernel: np.ndarray, approximation: np.ndarray) -> float:
    norm = float(np.linalg.norm(kernel))
    return float(np.linalg.norm(kernel - approximation)) / max(norm, 1e-300)
