"""Inputs for a signature: read from a file, or made up."""

import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from tfapprox.errors import UserError
from tfapprox.serving.signature import Signature, TensorSpec

Inputs = dict[str, np.ndarray]

DEFAULT_UNKNOWN_SIZE = 32
"""Stands in for every size, but the batch's, that a signature leaves open."""

_MAX_INTEGER = 10  # small enough to be an index into most tables
_WORDS = ("alpha", "beta", "gamma", "delta", "omega")


LABEL_KEYS = ("labels", "label")
"""Arrays that may stand beside the inputs in a file: the class of each example."""


def read_inputs(path: str, signature: Signature) -> Inputs:
    """Returns the arrays of an .npz file, one for each input key of the signature.

    bfloat16 and float8 inputs may be stored as float32, since .npz can't hold them.
    Labels beside the inputs are passed over.

    Raises:
      UserError: unreadable file, pickled objects, missing or extra keys, or an array
        whose dtype or shape does not fit.
    """
    return fitted_inputs(path, load_arrays(path), signature)


def fitted_inputs(path: str, arrays: Inputs, signature: Signature) -> Inputs:
    """Returns the arrays that are inputs of the signature; `path` is for messages.

    Raises:
      UserError: as `read_inputs`.
    """
    check_keys(path, "arrays", set(arrays), signature)
    return {
        key: fitted(path, key, spec, arrays[key]) for key, spec in sorted(signature.inputs.items())
    }


def check_keys(origin: str, what: str, keys: set[str], signature: Signature) -> None:
    """Refuses keys that are not the signature's; labels may stand beside them.

    Raises:
      UserError: a key is missing or unknown.
    """
    wanted = sorted(signature.inputs)
    if sorted(keys - (set(LABEL_KEYS) - set(wanted))) != wanted:
        raise UserError(f"{origin} has {what} {sorted(keys)}; the signature's inputs are {wanted}")


def load_arrays(path: str) -> Inputs:
    """Returns every array of an .npz file.

    Raises:
      UserError: it can't be read, or holds pickled objects.
    """
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.lib.npyio.NpzFile):
                return {key: archive[key] for key in archive.files}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path} can't be read as an .npz file: {reason}") from error
    except ValueError as error:
        raise UserError(
            f"{path} is no .npz file of plain arrays ({error}); write numbers, or strings "
            "as numpy.array([...], 'U'), with numpy.savez"
        ) from error
    raise UserError(f"{path} holds one array; write it with numpy.savez, named by input key")


def fitted(path: str, key: str, spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    """Returns the array for one input of a signature; `path` is for messages.

    Raises:
      UserError: its dtype or shape does not fit.
    """
    if not spec.admits(array.shape):
        raise UserError(f"{path}: {key!r} has shape {list(array.shape)}; the signature has {spec}")
    if spec.dtype == "string" and array.dtype.kind in "OSU":  # files hold no objects
        return array
    if spec.dtype not in ("string", "unknown"):
        want = spec.numpy_dtype()
        if array.dtype == want:
            return array
        if want.isbuiltin != 1 and array.dtype == np.float32:
            return array.astype(want)
    raise UserError(
        f"{path}: {key!r} is {array.dtype}; the signature has {spec}: convert it with astype"
    )


def generate_inputs(
    signature: Signature,
    batch_size: int,
    seed: int = 0,
    unknown_size: int = DEFAULT_UNKNOWN_SIZE,
) -> Inputs:
    """Returns made-up inputs, the same for the same arguments.

    Floats are standard normal, but in [0, 1) for what looks like images (four axes,
    the last of 1, 3 or 4 channels); integers are in 0..9, small enough to index most
    tables, and uint8 in 0..255; strings are common words.

    Args:
      signature: its inputs are filled.
      batch_size: where the first axis has no fixed size, and for inputs of unknown rank.
      seed: of the random numbers.
      unknown_size: of every other axis without a fixed size.

    Raises:
      UserError: an input has a type that can't be made up.
    """
    rng = np.random.default_rng(seed)
    return {
        key: _generate(key, spec, _shape(spec, batch_size, unknown_size), rng)
        for key, spec in sorted(signature.inputs.items())
    }


def assumed_sizes(signature: Signature, unknown_size: int = DEFAULT_UNKNOWN_SIZE) -> str:
    """Returns a remark on the sizes that `generate_inputs` has to assume, "" if none."""
    names = [
        key
        for key, spec in sorted(signature.inputs.items())
        if spec.shape is None or None in spec.shape[1:]
    ]
    if not names:
        return ""
    return f"inputs {', '.join(names)} have open sizes: {unknown_size} was assumed for each"


def _shape(spec: TensorSpec, batch_size: int, unknown_size: int) -> tuple[int, ...]:
    if spec.shape is None:
        return (batch_size,)
    filled = (batch_size, *(unknown_size for _ in spec.shape[1:]))
    return tuple(
        fill if size is None else size for size, fill in zip(spec.shape, filled, strict=False)
    )


def _generate(
    key: str, spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    if spec.dtype == "unknown" or not spec.name:
        raise UserError(f"input {key!r} has a type that can't be made up; give it with --inputs")
    if spec.dtype == "string":
        return rng.choice(np.array(_WORDS), size=shape)
    dtype = spec.numpy_dtype()
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        top = 256 if spec.dtype == "uint8" else _MAX_INTEGER
        return rng.integers(0, top, shape).astype(dtype)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    is_image = len(shape) == 4 and shape[-1] in (1, 3, 4)
    values = rng.random(shape) if is_image else rng.standard_normal(shape)
    return values.astype(dtype)


def take_batch(inputs: Mapping[str, np.ndarray], signature: Signature, batch_size: int) -> Inputs:
    """Returns the first `batch_size` examples, starting over where there are fewer.

    Inputs whose first axis has a fixed size, and scalars, stay as they are.

    Raises:
      UserError: an input has no example at all.
    """
    batch = {}
    for key, array in inputs.items():
        if not has_batch_axis(signature.inputs[key], array):
            batch[key] = array
            continue
        if not len(array):
            raise UserError(f"input {key!r} holds no example")
        batch[key] = array[np.arange(batch_size) % len(array)]
    return batch


def has_batch_axis(spec: TensorSpec, array: np.ndarray) -> bool:
    """Says whether the first axis counts examples, as many as one likes."""
    return array.ndim > 0 and (spec.shape is None or spec.shape[0] is None)
