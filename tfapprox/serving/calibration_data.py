"""A stream of input batches that can be started over: .npz, TFRecord, or a Python function."""

import dataclasses
import functools
import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfapprox.errors import UserError
from tfapprox.serving.inputs import (
    Inputs,
    check_keys,
    fitted,
    fitted_inputs,
    has_batch_axis,
    load_arrays,
)
from tfapprox.serving.npz_stream import array_shapes, stream_rows
from tfapprox.serving.signature import Signature

BATCH_SIZE = 32

Source = str | os.PathLike[str] | Mapping[str, Any] | Callable[[], Iterable[Any]] | Iterable[Any]

_RECORD_ENDINGS = (".tfrecord", ".tfrecords", ".tfrecord.gz", ".tfrecords.gz")


@dataclasses.dataclass(frozen=True, eq=False)
class CalibrationData:
    """Inputs of a signature, batch by batch, each time from the start.

    Attributes:
      origin: where they come from, for messages.
      signature: whose inputs they are; every batch was checked against it.
    """

    origin: str
    signature: Signature
    _start: Callable[[], Iterator[Inputs]]

    def __iter__(self) -> Iterator[Inputs]:
        """Yields {input key: array} until the data end.

        Raises:
          UserError: a batch does not fit the signature, or can't be read; or there is none.
        """
        empty = True
        for number, batch in enumerate(self._start()):
            empty = False
            yield _checked(f"{self.origin}, batch {number}", batch, self.signature)
        if empty:
            raise UserError(f"{self.origin} holds no example")

    @functools.cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell these data from others; reads all of them.

        How the examples are cut into batches does not count.

        Raises:
          UserError: as in iterating.
        """
        hashes: dict[str, Any] = {}
        for batch in self:
            for key, array in batch.items():
                shape = array.shape[has_batch_axis(self.signature.inputs[key], array) :]
                head = f"{key} {array.dtype} {shape}"
                one = hashes.setdefault(key, hashlib.sha256(head.encode()))
                one.update(
                    repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
                )
        parts = "".join(hashes[key].hexdigest() for key in sorted(hashes))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def head(self, examples: int) -> Inputs:
        """Returns the first examples, or all if there are fewer; never less than a batch's worth
        of an input without a batch axis.

        Raises:
          UserError: as in iterating.
        """
        parts: list[Inputs] = []
        count = 0
        for batch in self:
            if parts and not _can_join(parts[0], batch):
                break
            parts.append(batch)
            sizes = [
                len(array)
                for key, array in batch.items()
                if has_batch_axis(self.signature.inputs[key], array)
            ]
            if not sizes:
                break
            count += sizes[0]
            if count >= examples:
                break
        return {key: self._join(key, parts, examples) for key in parts[0]}

    def _join(self, key: str, parts: list[Inputs], examples: int) -> np.ndarray:
        if not has_batch_axis(self.signature.inputs[key], parts[0][key]):
            return parts[0][key]
        return np.concatenate([part[key] for part in parts])[:examples]


def open_calibration_data(
    source: Source, signature: Signature, batch_size: int = BATCH_SIZE
) -> CalibrationData:
    """Returns a stream of batches that holds one batch in memory at a time.

    Args:
      source: path of an .npz file with one array for each input key; path of a TFRecord
        file of tf.train.Example with one feature for each input key (names that end in
        .tfrecord, .tfrecords, or these and .gz); "module:function", called without
        arguments; such a function itself; an iterable that can be gone through again (a
        list, a tf.data.Dataset); or {input key: array}. Functions return, and iterables
        give, batches {input key: array}, or arrays alone where there is but one input.
      signature: of the model.
      batch_size: most examples of a batch from a file or mapping; batches from Python
        stay as they are.

    Raises:
      UserError: no such file or function, keys that are not the signature's, or a
        generator, which can't be started over. What is wrong with a later batch is told
        when its turn comes.
    """
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if path.endswith(_RECORD_ENDINGS):
            from tfapprox.serving.tfrecord_inputs import read_records

            return CalibrationData(
                path, signature, lambda: read_records(path, signature, batch_size)
            )
        if ":" in path and not os.path.exists(path):
            return _from_python(_imported(path), path, signature)
        return _from_npz(path, signature, batch_size)
    if isinstance(source, Mapping):
        return _from_arrays(source, signature, batch_size)
    return _from_python(source, "calibration data", signature)


def _from_npz(path: str, signature: Signature, batch_size: int) -> CalibrationData:
    if path.endswith(".npy"):
        raise UserError(f"{path} holds one array; write it with numpy.savez, named by input key")
    headers = array_shapes(path)
    check_keys(path, "arrays", set(headers), signature)
    for key, (dtype, shape) in headers.items():
        if key in signature.inputs:
            fitted(path, key, signature.inputs[key], np.broadcast_to(np.zeros((), dtype), shape))
    open_ended = {k for k in signature.inputs if _is_open(signature, k, headers[k][1])}
    rows = {k: headers[k][1][0] for k in sorted(open_ended)}
    _check_rows(path, rows)
    fixed = sorted(set(signature.inputs) - open_ended)

    def start() -> Iterator[Inputs]:
        whole = {k: v for k, v in load_arrays(path).items() if k in fixed} if fixed else {}
        if not open_ended:
            yield whole
            return
        for batch in stream_rows(path, sorted(open_ended), batch_size):
            yield {**batch, **whole}

    return CalibrationData(path, signature, start)


def _from_arrays(
    arrays: Mapping[str, Any], signature: Signature, batch_size: int
) -> CalibrationData:
    origin = "calibration data"
    whole = _checked(origin, dict(arrays), signature)
    rows = {k: len(v) for k, v in whole.items() if has_batch_axis(signature.inputs[k], v)}
    _check_rows(origin, rows)

    def start() -> Iterator[Inputs]:
        count = min(rows.values(), default=1)
        for first in range(0, count, batch_size):
            yield {k: v[first : first + batch_size] if k in rows else v for k, v in whole.items()}

    return CalibrationData(origin, signature, start)


def _from_python(source: Any, origin: str, signature: Signature) -> CalibrationData:
    if not callable(source) and (not isinstance(source, Iterable) or iter(source) is source):
        raise UserError(
            f"{origin} must be gone through more than once, which a {type(source).__name__} "
            "can't: give a function that returns it"
        )
    (only,) = signature.inputs if len(signature.inputs) == 1 else (None,)

    def start() -> Iterator[Inputs]:
        for batch in _guarded(source, origin):
            if not isinstance(batch, Mapping):
                if only is None or isinstance(batch, tuple | list):
                    raise UserError(
                        f"{origin} gave a {type(batch).__name__}; give "
                        f"{{input key: array}} with keys {sorted(signature.inputs)}"
                    )
                batch = {only: batch}
            yield dict(batch)

    return CalibrationData(origin, signature, start)


def _guarded(source: Any, origin: str) -> Iterator[Any]:
    """Yields the batches of a function or iterable; what goes wrong in it is the user's to mend."""
    try:
        batches = source() if callable(source) else source
        if not isinstance(batches, Iterable):
            raise UserError(f"{origin} returned a {type(batches).__name__}, not batches")
        yield from batches
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{origin} failed with {reason}: run it by itself to see where") from error


def _imported(name: str) -> Callable[[], Any]:
    """Returns "module:function", looked for in the current directory too, as `python -m` does."""
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a module may do anything on import
        raise UserError(
            f"{name} is no file, and no function to import either ({type(error).__name__}: "
            f"{error}); name a .npz or .tfrecord file, or MODULE:FUNCTION"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(function):
        raise UserError(f"{name} is a {type(function).__name__}, not a function")
    return function


def _checked(origin: str, batch: Mapping[str, Any], signature: Signature) -> Inputs:
    arrays = fitted_inputs(origin, {k: np.asarray(v) for k, v in batch.items()}, signature)
    _check_rows(origin, {k: len(v) for k, v in arrays.items() if _is_open(signature, k, v.shape)})
    return arrays


def _is_open(signature: Signature, key: str, shape: tuple[int, ...]) -> bool:
    return has_batch_axis(signature.inputs[key], np.broadcast_to(np.zeros(()), shape))


def _check_rows(origin: str, rows: Mapping[str, int]) -> None:
    if len(set(rows.values())) > 1:
        raise UserError(f"{origin}: inputs differ in their number of examples, {dict(rows)}")
    if 0 in rows.values():
        raise UserError(f"{origin} holds no example")


def _can_join(first: Inputs, other: Inputs) -> bool:
    return all(first[key].shape[1:] == other[key].shape[1:] for key in first)
