"""Bases of the two channel axes: the truncated higher-order SVD and what iteration gains."""

from typing import Literal

import numpy as np

from tfapprox.accounting.site import Site
from tfapprox.decompositions.spectra import SpectrumCache, gram
from tfapprox.decompositions.unfolding import matrix_shape, unfold

Side = Literal["in", "out"]

# The schemes that leave one channel axis alone on a side of the matrix.
UNFOLDING: dict[Side, int] = {"in": 3, "out": 0}

_SWEEPS = 5
_GAIN = 1e-3  # sweeps stop when the squared error falls by less than this share of itself


def leading_vectors(site: Site, side: Side, rank: int, spectra: SpectrumCache) -> np.ndarray:
    """Returns the leading singular vectors of one channel axis's unfolding, [I or O, rank].

    Args:
      site: `rank` must not exceed min(I, H W O) or min(O, H W I).
      side: "in" for the I x H W O unfolding, "out" for O x H W I.
    """
    scheme = UNFOLDING[side]
    rows, columns = matrix_shape(site.kernel.shape, scheme)
    basis = spectra.spectrum(site, scheme).basis[0]
    # A spectrum keeps the shorter side, the left one of a square matrix; ours is the
    # left one for "out". QR keeps the order and fills up where singular values are zero.
    if (rows <= columns) != (side == "out"):
        matrix = unfold(site.kernel, scheme)[0].astype(basis.dtype, copy=False)
        basis = np.linalg.qr((matrix.T if side == "in" else matrix) @ basis)[0]
    return basis[:, :rank]


def truncation_energy(site: Site, spectra: SpectrumCache) -> np.ndarray:
    """Returns ||W - W_hat||_F^2 of the truncated higher-order SVD for every rank pair.

    Partial sums over the squares of the full core: the energy outside its corner.

    Returns:
      float64 [min(I, H W O), min(O, H W I)]; entry (i, o) belongs to the ranks i + 1
      and o + 1.
    """
    basis_in = leading_vectors(site, "in", site.in_channels, spectra)
    basis_out = leading_vectors(site, "out", site.out_channels, spectra)
    taps = site.kernel.reshape(-1, *site.kernel.shape[2:])
    core = basis_in.T @ taps @ basis_out
    kept = np.sum(np.square(core), axis=0, dtype=np.float64).cumsum(axis=0).cumsum(axis=1)
    return np.maximum(np.sum(np.square(taps), dtype=np.float64) - kept, 0.0)


def hooi(
    kernel: np.ndarray, basis_in: np.ndarray, basis_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (core, U, V) that no longer improve by alternating.

    Bases are orthonormal, so ||W - W_hat||^2 = ||W||^2 - ||core||^2: each half sweep
    takes the basis that makes the core largest for the other basis.

    Args:
      kernel: [H, W, I, O].
      basis_in, basis_out: [I, R_in] and [O, R_out], orthonormal columns to start from.

    Returns:
      core [H, W, R_in, R_out], U [I, R_in], V [O, R_out].
    """
    taps = kernel.reshape(-1, *kernel.shape[2:]).astype(basis_in.dtype, copy=False)
    total = float(np.sum(np.square(taps), dtype=np.float64))
    narrow = basis_in.T @ taps
    energy = float(np.sum(np.square(narrow @ basis_out), dtype=np.float64))
    for _ in range(_SWEEPS):
        old = narrow, basis_in, basis_out
        basis_in = main_vectors((taps @ basis_out).transpose(1, 0, 2), basis_in.shape[1])
        narrow = basis_in.T @ taps
        basis_out = main_vectors(narrow.transpose(2, 0, 1), basis_out.shape[1])
        before, energy = energy, float(np.sum(np.square(narrow @ basis_out), dtype=np.float64))
        if energy <= before:
            narrow, basis_in, basis_out = old
        if energy - before <= _GAIN * max(total - energy, 0.0):
            break
    core = (narrow @ basis_out).reshape(*kernel.shape[:2], basis_in.shape[1], basis_out.shape[1])
    return core, basis_in, basis_out


def main_vectors(tensor: np.ndarray, rank: int) -> np.ndarray:
    """Returns the leading left singular vectors of [n, ...] unfolded along its first axis."""
    _, vectors = np.linalg.eigh(gram(tensor.reshape(len(tensor), -1)))
    return vectors[:, : -rank - 1 : -1].astype(tensor.dtype)
