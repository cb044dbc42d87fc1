"""The operator norm: the error of the worst input, and the cheap bound on it."""

import numpy as np

from tfapprox.accounting.site import Site
from tfapprox.decompositions.spectra import Spectrum, SpectrumCache, gram
from tfapprox.decompositions.unfolding import held_taps, left_axes, unfold
from tfapprox.metrics.lanczos import largest_eigenvalue


class OperatorNorm:
    """||W||_2 of the scheme-0 unfolding, its largest singular value."""

    def norm(self, kernel: np.ndarray) -> float:
        """Returns ||W||_2 by the Gram matrix of the shorter side."""
        matrix = unfold(kernel, scheme=0)[0]
        short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        return float(np.sqrt(max(0.0, np.linalg.eigvalsh(gram(short))[-1])))

    def site_norm(self, site: Site, spectra: SpectrumCache) -> float:
        """Returns the largest singular value of the site's scheme-0 spectrum."""
        return float(spectra.singular_values(site, scheme=0)[0, 0])

    def distance(self, site: Site, approximation: np.ndarray) -> float:
        """Returns the norm of the difference."""
        return self.norm(site.kernel - approximation)

    def residual_norms(self, spectrum: Spectrum, ranks: np.ndarray) -> np.ndarray:
        """Returns the true ||W - W_hat||_2 for every rank j, in any scheme.

        Write U_{i,r} [f, h] for the left singular vector r of slice i with its taps
        as columns. Right singular vectors are orthonormal and slices are disjoint
        columns, so the residual R of the composed kernel has

          R R^T = sum_i sum_{r > j} s_{i,r}^2 U_{i,r} U_{i,r}^T      (f x f)

        and ||R||_2^2 is its largest eigenvalue. For scheme 0 with one slice that is
        s_{j+1}^2.

        References:
          Liebenwein et al. 2021, supplement, Section A.4, which holds the true norm to
          be too slow and falls back on Theorem 1; see `OperatorBound`.
        """
        if spectrum.scheme == 0 and spectrum.slices == 1:
            return np.append(spectrum.values[0], 0.0)[ranks]
        columns = _residual_columns(spectrum)
        if columns.shape[1] < columns.shape[0]:
            squares = _tail_norms_by_columns(columns, ranks * _width(spectrum))
        else:
            squares = _tail_norms_by_rows(columns, ranks * _width(spectrum))
        # A larger rank cannot be worse; rounding must not say so.
        return np.sqrt(np.maximum.accumulate(squares[::-1])[::-1])


class OperatorBound(OperatorNorm):
    """The operator norm, the residual's replaced by the upper bound of Theorem 1.

      ||W - W_hat||_2 <= sqrt(k h) max_i sigma_{j+1}(W_i)

    It needs no singular vectors. The theorem is for scheme 0, where h = 1. In another
    scheme the h blocks, one for each tap on the left side, that stand below each other
    in W_i stand side by side in the scheme-0 unfolding; each has at most the norm of
    all, and side by side squares of norms at most add up, as they do over slices.

    References:
      Liebenwein et al. 2021, Theorem 1.
    """

    def residual_norms(self, spectrum: Spectrum, ranks: np.ndarray) -> np.ndarray:
        """Returns the bound for every rank."""
        worst = np.append(spectrum.values.max(axis=0), 0.0)
        return np.sqrt(_width(spectrum)) * worst[ranks]


def _width(spectrum: Spectrum) -> int:
    """Returns the columns that one rank puts into the residual: k h."""
    height, width = held_taps(spectrum.kernel_size, left_axes(spectrum.scheme))
    return spectrum.slices * height * width


def _residual_columns(spectrum: Spectrum) -> np.ndarray:
    """Returns the columns s_{i,r} U_{i,r}, [f, R k h], those of one rank side by side."""
    scaled = spectrum.scaled_left()
    slices, rows, rank = scaled.shape
    out_channels = spectrum.kernel.shape[3]
    blocks = scaled.reshape(slices, rows // out_channels, out_channels, rank)
    return blocks.transpose(2, 3, 0, 1).reshape(out_channels, -1)


def _tail_norms_by_rows(columns: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Returns ||C[:, start:]||_2^2 for every start, by C C^T updated from the tail upwards."""
    squares = np.zeros(len(starts))
    total = np.zeros((len(columns), len(columns)), columns.dtype)
    guess = None
    stop = columns.shape[1]
    for index in range(len(starts) - 1, -1, -1):
        block = columns[:, starts[index] : stop]
        if block.shape[1]:
            total += block @ block.T
            stop = starts[index]
            squares[index], guess = largest_eigenvalue(total, guess)
    return squares


def _tail_norms_by_columns(columns: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Returns the same by the trailing blocks of C^T C, for fewer columns than rows."""
    squares = np.zeros(len(starts))
    inner = columns.T @ columns
    guess = None
    for index in range(len(starts) - 1, -1, -1):
        start = starts[index]
        if start < len(inner):
            if guess is not None:
                guess = np.concatenate([np.zeros(len(inner) - start - len(guess)), guess])
            squares[index], guess = largest_eigenvalue(inner[start:, start:], guess)
    return squares
