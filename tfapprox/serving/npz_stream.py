"""Reads the arrays of an .npz file side by side, some rows at a time."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
from numpy.lib import format as npy

from tfapprox.errors import UserError


def array_shapes(path: str) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Returns the dtype and shape of each array, from the headers alone.

    Raises:
      UserError: no such file, or no .npz file of plain arrays.
    """
    with _explained(path), zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                shape, _, dtype = _header(file)
            found[name.removesuffix(".npy")] = (dtype, shape)
        return found


def stream_rows(path: str, keys: Sequence[str], count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields `count` rows (the last time fewer) of the arrays `keys` together.

    Memory holds those rows alone, whatever the file's size; an array stored by columns
    (Fortran order) is read whole.

    Raises:
      UserError: the file is damaged, or holds pickled objects.
    """
    with _explained(path), zipfile.ZipFile(path) as archive:
        readers = {key: _Rows(archive.open(f"{key}.npy")) for key in keys}
        try:
            rows = min((reader.rows for reader in readers.values()), default=0)
            for start in range(0, rows, count):
                size = min(count, rows - start)
                yield {key: reader.take(size) for key, reader in readers.items()}
        finally:
            for reader in readers.values():
                reader.close()


class _Rows:
    """The rows of one array in a file that is read from start to end."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        shape, by_columns, self._dtype = _header(file)
        self.rows, self._row_shape = shape[0], shape[1:]
        self._whole: np.ndarray | None = None
        if by_columns:
            self._whole = self._read(shape[::-1]).T
            self._taken = 0

    def take(self, count: int) -> np.ndarray:
        if self._whole is None:
            return self._read((count, *self._row_shape))
        self._taken += count
        return self._whole[self._taken - count : self._taken]

    def _read(self, shape: tuple[int, ...]) -> np.ndarray:
        size = self._dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        content = self._file.read(size)
        if len(content) != size:
            raise EOFError("the file ends early")
        return np.frombuffer(content, self._dtype).reshape(shape)

    def close(self) -> None:
        self._file.close()


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("pickled objects are not read")
    return shape, by_columns, dtype


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turns what a damaged file raises into one line."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"{path} is no .npz file of plain arrays ({error}); write numbers, or strings "
            "as numpy.array([...], 'U'), with numpy.savez"
        ) from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path} can't be read as an .npz file: {reason}") from error
