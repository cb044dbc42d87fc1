"""Writes a checkpoint in parts, so that memory stays near the size of one part."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

_PART_BYTES = 32 << 20


def write_checkpoint(prefix: Path, tensors: Sequence[tuple[str, Callable[[], np.ndarray]]]) -> None:
    """Writes tensors in TensorFlow's V2 format.

    Args:
      prefix: path without the endings .index and .data.
      tensors: name and a function that gives the value when its turn comes.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    parts: list[str] = []
    names: list[str] = []
    values: list[tf.Tensor] = []
    size = 0

    def flush() -> None:
        nonlocal size
        part = f"{prefix}_part_{len(parts)}"
        tf.raw_ops.SaveV2(
            prefix=part, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
        )
        parts.append(part)
        names.clear()
        values.clear()
        size = 0

    with tf.device("/CPU:0"):
        for name, read in tensors:
            value = tf.constant(read())
            if values and size + _bytes(value) > _PART_BYTES:
                flush()
            names.append(name)
            values.append(value)
            size += _bytes(value)
        flush()
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=parts, destination_prefix=str(prefix), delete_old_dirs=False
        )


def _bytes(tensor: tf.Tensor) -> int:
    return tensor.dtype.size * int(np.prod(tensor.shape.as_list(), dtype=np.int64))
