"""Singular values and short-side bases of unfolded kernels, computed once."""

import collections
import dataclasses
import threading
from collections.abc import Iterable

import numpy as np
import scipy.linalg

from tfapprox.accounting.geometry import Pair
from tfapprox.accounting.site import Site
from tfapprox.decompositions.unfolding import unfold
from tfapprox.errors import UserError
from tfapprox.selection.problem import Configuration

_BLOCK_BYTES = 2**24  # of the float64 pieces in which a kernel enters its Gram matrix
_IN_PLACE = 1024  # rows of a Gram matrix from which on memory counts most
_Key = tuple[str, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular value decomposition of the slices of one unfolded kernel.

    Only the basis of the shorter side is kept; the other factor is a projection,
    U^T W or W V. So the product at full rank is the kernel to rounding, however
    inexact the small singular values are.

    Attributes:
      kernel: [H, W, I, O].
      scheme, slices: the unfolding.
      values: float64 [slices, R], singular values in descending order, R = min(F, D).
      basis: [slices, R, n], orthonormal columns of the shorter side in the order of
        `values`, all R of them or the leading n; the kernel's dtype, at least float32.
    """

    kernel: np.ndarray
    scheme: int
    slices: int
    values: np.ndarray
    basis: np.ndarray

    @property
    def kernel_size(self) -> Pair:
        return self.kernel.shape[0], self.kernel.shape[1]

    def scaled_left(self) -> np.ndarray:
        """Returns U S, [slices, F, R]: the left singular vectors times their values."""
        matrices = unfold(self.kernel, self.scheme, self.slices)
        if matrices.shape[1] <= matrices.shape[2]:
            return self.basis * self.values[:, None, :].astype(self.basis.dtype)
        return matrices.astype(self.basis.dtype, copy=False) @ self.basis

    def factors(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best approximation L R^T of every slice, the values split evenly.

        Returns:
          L = U sqrt(S), [slices, F, rank], and R = V sqrt(S), [slices, D, rank].
        """
        matrices = unfold(self.kernel, self.scheme, self.slices)
        matrices = matrices.astype(self.basis.dtype, copy=False)
        basis = self.basis[:, :, :rank]
        # A value of 0 is scaled like a small one, so that dividing by it stays harmless.
        floor = self.values.max() * np.finfo(self.basis.dtype).eps
        values = np.maximum(self.values[:, None, :rank], floor if floor > 0 else 1.0)
        scale = np.sqrt(values).astype(self.basis.dtype)
        if matrices.shape[1] <= matrices.shape[2]:
            return basis * scale, (matrices.swapaxes(1, 2) @ basis) / scale
        return (matrices @ basis) / scale, basis * scale


def gram(matrices: np.ndarray) -> np.ndarray:
    """Returns A A^T in float64 for every A of `matrices`, [..., n, m] -> [..., n, n].

    A enters in pieces, so that there is never a float64 copy of a large kernel.
    """
    columns = matrices.shape[-1]
    step = max(1, _BLOCK_BYTES * columns // (8 * matrices.size))
    total: np.ndarray | None = None
    for start in range(0, columns, step):
        piece = matrices[..., start : start + step].astype(np.float64)
        product = piece @ piece.swapaxes(-1, -2)
        total = product if total is None else np.add(total, product, out=total)
    assert total is not None
    return total


def compute_spectrum(site: Site, scheme: int, slices: int) -> Spectrum:
    """Returns the spectrum by the eigenvectors of the short side's Gram matrix.

    Values below about 1e-8 of the largest are rounding noise (the Gram matrix
    squares them); everything above is exact to float32.

    Raises:
      UserError: the kernel has NaN or infinite entries.
    """
    check_finite(site)
    matrices = unfold(site.kernel, scheme, slices)
    short = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.swapaxes(1, 2)
    squares = gram(short)
    values = np.empty(squares.shape[:2])
    basis = np.empty(squares.shape, np.result_type(np.float32, site.kernel.dtype))
    for i, square in enumerate(squares):
        eigenvalues, vectors = _eigh(square)
        values[i] = np.sqrt(np.maximum(eigenvalues[::-1], 0.0))
        basis[i] = vectors[:, ::-1]
    return Spectrum(site.kernel, scheme, slices, values, basis)


def _eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the eigenvalues, ascending, and the eigenvectors; may overwrite the matrix."""
    if len(matrix) < _IN_PLACE:
        return np.linalg.eigh(matrix)  # SciPy's would not let other sites be worked on meanwhile
    # By the driver that needs the least memory beside the matrix.
    return scipy.linalg.eigh(matrix.T, driver="evr", overwrite_a=True, check_finite=False)


def check_finite(site: Site) -> None:
    """Raises a UserError that names the site if its kernel has NaN or infinite entries."""
    if not np.isfinite(site.kernel).all():
        raise UserError(
            f"site {site.name}: the kernel has NaN or infinite entries; "
            f"repair the model or leave the site out with --exclude"
        )


class SpectrumCache:
    """The spectra of one model's sites; a site's name stands for its kernel.

    Singular values are kept for good. Bases are kept while they fit into `max_bytes`;
    the ones longest unused go first and are computed anew when asked for. Several
    threads may use it at once.
    """

    def __init__(self, max_bytes: int = 2**30):
        self._max_bytes = max_bytes
        self._values: dict[_Key, np.ndarray] = {}
        self._spectra: collections.OrderedDict[_Key, Spectrum] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()

    def holds(self, site: Site, scheme: int = 0, slices: int = 1) -> bool:
        """Says whether these singular values are known already."""
        return (site.name, scheme, slices) in self._values

    def singular_values(self, site: Site, scheme: int = 0, slices: int = 1) -> np.ndarray:
        """Returns float64 [slices, R], the singular values of every slice, descending."""
        key = (site.name, scheme, slices)
        if key not in self._values:
            self.spectrum(site, scheme, slices)
        return self._values[key]

    def spectrum(
        self, site: Site, scheme: int = 0, slices: int = 1, rank: int | None = None
    ) -> Spectrum:
        """Returns the singular values with the basis of the shorter side.

        Args:
          site, scheme, slices: the unfolded kernel.
          rank: the leading vectors that are needed; all of them when None.
        """
        key = (site.name, scheme, slices)
        spectrum = self._spectra.get(key)
        if spectrum is None or spectrum.basis.shape[2] < (rank or spectrum.values.shape[1]):
            spectrum = compute_spectrum(site, scheme, slices)
        self._keep(key, spectrum)
        return spectrum

    def trim(self, site: Site, configurations: Iterable[Configuration]) -> None:
        """Forgets the singular vectors of a site that none of these can ask for.

        Low ranks are what a compression is after, so this halves the memory that
        planning holds. A configuration that is no truncated SVD may ask for any.
        """
        needed: dict[_Key, int] = {}
        for configuration in configurations:
            settings = configuration.settings
            if configuration.decomposition != "svd":
                return
            key = (site.name, settings["scheme"], settings["slices"])
            needed[key] = max(needed.get(key, 0), settings["rank"])
        with self._lock:
            for key in [key for key in self._spectra if key[0] == site.name]:
                spectrum = self._spectra[key]
                leading = spectrum.basis[:, :, : needed.get(key, 0)].copy()
                self._keep(key, dataclasses.replace(spectrum, basis=leading))

    def release(self) -> None:
        """Forgets all singular vectors, and keeps the values."""
        with self._lock:
            self._spectra.clear()
            self._bytes = 0

    def _keep(self, key: _Key, spectrum: Spectrum) -> None:
        with self._lock:
            self._values[key] = spectrum.values
            old = self._spectra.pop(key, None)
            self._bytes += spectrum.basis.nbytes - (old.basis.nbytes if old is not None else 0)
            self._spectra[key] = spectrum
            while self._bytes > self._max_bytes:
                _, dropped = self._spectra.popitem(last=False)
                self._bytes -= dropped.basis.nbytes
