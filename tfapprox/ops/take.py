"""Picking entries along an axis, and spreading their gradients back, in the fastest forms."""

from typing import Any

import tensorflow as tf

from tfapprox.ops.draw import Draw


def take(x: tf.Tensor, draw: Draw, axis: int = 0) -> tf.Tensor:
    """Returns the drawn entries of `x` along `axis`; the gradient adds them back in place.

    Nothing but the indices is kept for the backward pass.

    Args:
      x: at least one dimension; the size of `axis` must be static.
    """
    axis %= x.shape.rank
    size = x.shape[axis]
    indices = draw.indices

    @tf.custom_gradient
    def gather(x: tf.Tensor) -> Any:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            return spread(dy, draw, size, axis)

        if axis == x.shape.rank - 1 and _one_hot_is_faster():
            picks = tf.one_hot(indices, size, axis=0, dtype=x.dtype)
            return tf.tensordot(x, picks, 1), gradient
        return tf.gather(x, indices, axis=axis), gradient

    return gather(x)


def spread(rows: tf.Tensor, draw: Draw, size: int, axis: int = 0) -> tf.Tensor:
    """Returns zeros of `size` along `axis` with `rows` added at the drawn indices.

    Args:
      rows: k entries along `axis`.
    """
    axis %= rows.shape.rank
    if axis == rows.shape.rank - 1 and _one_hot_is_faster():
        result = tf.tensordot(rows, tf.one_hot(draw.indices, size, dtype=rows.dtype), 1)
    elif draw.distinct:
        result = _gather_back(rows, draw.indices, size, axis)
    elif axis == 0:
        shape = tf.concat([[size], tf.shape(rows)[1:]], 0)
        result = tf.scatter_nd(draw.indices[:, tf.newaxis], rows, shape)
    else:
        order = [axis, *(i for i in range(rows.shape.rank) if i != axis)]
        moved = spread(tf.transpose(rows, order), draw, size)
        result = tf.transpose(moved, [order.index(i) for i in range(len(order))])
    static = rows.shape.as_list()
    static[axis] = size
    return tf.ensure_shape(result, static)


def _gather_back(rows: tf.Tensor, indices: tf.Tensor, size: int, axis: int) -> tf.Tensor:
    """Gathers from the rows and one zero in front: mostly faster than scattering."""
    place = tf.scatter_nd(indices[:, tf.newaxis], 1 + tf.range(tf.size(indices)), [size])
    pads = [[int(i == axis), 0] for i in range(rows.shape.rank)]
    return tf.gather(tf.pad(rows, pads), place, axis=axis)


def _one_hot_is_faster() -> bool:
    # Along the innermost axis a product with a 0-1 matrix beats gather and scatter
    # on CPUs. A GPU may round its factors to TF32, and gathers fast.
    return not tf.config.list_physical_devices("GPU")
