"""Reads a TFRecord file of tf.train.Example as inputs of a signature.

Each record is one example: a feature for each input key, a flat list of numbers or
strings that is brought to the signature's shape. Where more than one size is open, the
feature "KEY/shape" says it. Numbers may also come as one string of their bytes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfapprox.errors import UserError
from tfapprox.serving.inputs import Inputs, check_keys
from tfapprox.serving.signature import Signature, TensorSpec

_SHAPE = "/shape"


def read_records(path: str, signature: Signature, batch_size: int) -> Iterator[Inputs]:
    """Yields batches of examples with the same shapes; memory holds one of them.

    Args:
      path: of a TFRecord file, compressed where its name ends in .gz.
      signature: each input needs a first axis that counts examples.
      batch_size: most examples of a batch; an input with a fixed first axis gets just as
        many as that, and what is left over at the end is dropped.

    Raises:
      UserError: the file can't be read, or a record does not fit the signature.
    """
    size, fixed = _batch_size(path, signature, batch_size)
    waiting: list[Inputs] = []
    for number, record in enumerate(_records(path)):
        example = _parse(f"{path}, record {number}", record, signature)
        if waiting and any(example[k].shape != waiting[0][k].shape for k in example):
            if not fixed:
                yield _stack(waiting)
            waiting = []
        waiting.append(example)
        if len(waiting) == size:
            yield _stack(waiting)
            waiting = []
    if waiting and not fixed:
        yield _stack(waiting)


def _batch_size(path: str, signature: Signature, wanted: int) -> tuple[int, bool]:
    """Returns how many examples a batch has, and whether the signature fixes that."""
    fixed = set()
    for key, spec in signature.inputs.items():
        if spec.shape == ():
            raise UserError(
                f"{path}: input {key!r} is one number for all examples, which a TFRecord file "
                "can't give: use an .npz file"
            )
        if spec.shape is not None and spec.shape[0] is not None:
            fixed.add(spec.shape[0])
    if len(fixed) > 1:
        raise UserError(
            f"{path}: the inputs' first axes have the fixed sizes {sorted(fixed)}, so they "
            "count no examples: use an .npz file"
        )
    return (fixed.pop(), True) if fixed else (wanted, False)


def _records(path: str) -> Iterator[bytes]:
    import tensorflow as tf

    compression = "GZIP" if path.endswith(".gz") else ""
    try:
        yield from tf.data.TFRecordDataset(path, compression).as_numpy_iterator()
    except tf.errors.NotFoundError as error:
        raise UserError(f"{path} can't be read: No such file or directory") from error
    except tf.errors.OpError as error:
        reason = str(error.message).split(";")[0].split("[Op:")[0].strip()
        raise UserError(f"{path} is damaged or no TFRecord file: {reason}") from error


def _parse(origin: str, record: bytes, signature: Signature) -> Inputs:
    from google.protobuf.message import DecodeError
    from tensorflow.core.example import example_pb2

    try:
        features = example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
        raise UserError(f"{origin} is no tf.train.Example") from error
    sizes = {key + _SHAPE for key in signature.inputs}
    check_keys(origin, "features", set(features) - sizes, signature)
    return {
        key: _array(origin, key, spec, features) for key, spec in sorted(signature.inputs.items())
    }


def _array(origin: str, key: str, spec: TensorSpec, features: Any) -> np.ndarray:
    """Returns one example's value of an input, without the axis that counts examples."""
    feature = features[key]
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else []
    if spec.dtype == "string":
        if kind != "bytes_list":
            raise UserError(f"{origin}: {key!r} holds a {kind}; the signature has {spec}")
        flat = np.array(list(values), object)
    else:
        flat = _numbers(origin, key, spec, kind, values)
    return flat.reshape(_shape(origin, key, spec, flat.size, features))


def _numbers(origin: str, key: str, spec: TensorSpec, kind: Any, values: Any) -> np.ndarray:
    dtype = spec.numpy_dtype()
    if kind == "bytes_list" and len(values) == 1 and len(values[0]) % dtype.itemsize == 0:
        return np.frombuffer(values[0], dtype.newbyteorder("<")).astype(dtype)
    is_real = dtype.kind == "f" or dtype.isbuiltin == 2
    if (kind == "float_list" and is_real) or (kind == "int64_list" and dtype.kind in "iub"):
        flat = np.asarray(values, np.float32 if is_real else np.int64)
        exact = flat.astype(dtype)
        if is_real or np.array_equal(exact, flat):
            return exact
    raise UserError(
        f"{origin}: {key!r} holds a {kind or 'feature without values'} that is no {spec.dtype}; "
        "write a float_list for real numbers, an int64_list for integers, or their bytes"
    )


def _shape(origin: str, key: str, spec: TensorSpec, count: int, features: Any) -> tuple[int, ...]:
    told = tuple(features[key + _SHAPE].int64_list.value) if key + _SHAPE in features else None
    wanted = (None,) * len(told or (0,)) if spec.shape is None else spec.shape[1:]
    shape = told if told is not None else _completed(wanted, count)
    fits = shape is not None and len(shape) == len(wanted)
    fits = fits and all(w in (None, s) for w, s in zip(wanted, shape or (), strict=True))
    if not fits or int(np.prod(shape or (), dtype=np.int64)) != count:
        hint = f"; the feature '{key}{_SHAPE}' may say it" if wanted.count(None) > 1 else ""
        raise UserError(
            f"{origin}: {key!r} has {count} values{f' of shape {list(told)}' if told else ''}, "
            f"which do not make up one example of {spec}{hint}"
        )
    return tuple(shape or ())


def _completed(wanted: tuple[int | None, ...], count: int) -> tuple[int, ...] | None:
    """Returns the sizes with at most one open one filled in; None where that can't be told."""
    if wanted.count(None) > 1:
        return None
    known = int(np.prod([size for size in wanted if size is not None], dtype=np.int64))
    return tuple(count // max(known, 1) if size is None else size for size in wanted)


def _stack(examples: list[Inputs]) -> Inputs:
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}
