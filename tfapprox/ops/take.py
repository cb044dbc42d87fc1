"""Picking entries along an axis, and spreading their gradients back, in the fastest forms."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfapprox.ops.by_compiler import by_compiler
from tfapprox.ops.draw import Draw

# Up to so many entries a product with a 0-1 matrix beats TensorFlow's gather and scatter.
_PRODUCT_SIZE = 448


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

        def product() -> tf.Tensor:
            return tf.tensordot(x, tf.one_hot(indices, size, axis=0, dtype=x.dtype), 1)

        def gathered() -> tf.Tensor:
            return tf.gather(x, indices, axis=axis)

        graph = product if axis == x.shape.rank - 1 and size <= _PRODUCT_SIZE else gathered
        taken = by_compiler(graph, lambda: _gather_rows(x, indices, axis))
        return tf.ensure_shape(taken, _resized(x, axis, indices.shape[0])), gradient

    return gather(x)


def spread(rows: tf.Tensor, draw: Draw, size: int, axis: int = 0) -> tf.Tensor:
    """Returns zeros of `size` along `axis` with `rows` added at the drawn indices.

    Args:
      rows: k entries along `axis`.
    """
    axis %= rows.shape.rank

    def product() -> tf.Tensor:
        return tf.tensordot(rows, tf.one_hot(draw.indices, size, dtype=rows.dtype), 1)

    def scattered() -> tf.Tensor:
        return _scatter(rows, draw, size, axis, tf.gather)

    graph = product if axis == rows.shape.rank - 1 and size <= _PRODUCT_SIZE else scattered
    result = by_compiler(graph, lambda: _scatter(rows, draw, size, axis, _gather_rows))
    return tf.ensure_shape(result, _resized(rows, axis, size))


def _scatter(
    rows: tf.Tensor, draw: Draw, size: int, axis: int, gather: Callable[..., tf.Tensor]
) -> tf.Tensor:
    if draw.distinct:
        return _gather_back(rows, draw.indices, size, axis, gather)
    if axis == 0:
        shape = tf.concat([[size], tf.shape(rows)[1:]], 0)
        return tf.scatter_nd(draw.indices[:, tf.newaxis], rows, shape)
    order = [axis, *(i for i in range(rows.shape.rank) if i != axis)]
    moved = _scatter(tf.transpose(rows, order), draw, size, 0, gather)
    return tf.transpose(moved, [order.index(i) for i in range(len(order))])


def _gather_back(
    rows: tf.Tensor, indices: tf.Tensor, size: int, axis: int, gather: Callable[..., tf.Tensor]
) -> tf.Tensor:
    """Gathers from the rows and one zero in front: mostly faster than scattering."""
    place = tf.scatter_nd(indices[:, tf.newaxis], 1 + tf.range(tf.size(indices)), [size])
    pads = [[int(i == axis), 0] for i in range(rows.shape.rank)]
    return gather(tf.pad(rows, pads), place, axis=axis)


def _gather_rows(x: tf.Tensor, indices: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns tf.gather(x, indices, axis=axis) with every place along the axes before as a row.

    XLA gathers along any but the first axis by moving that axis to the front and back again.
    """
    if axis == 0:
        return tf.gather(x, indices)
    shape, size = tf.shape(x), x.shape[axis]
    before = tf.range(tf.reduce_prod(shape[:axis]))
    rows = tf.reshape(size * before[:, tf.newaxis] + indices, [-1])
    flat = tf.reshape(x, tf.concat([[-1], shape[axis + 1 :]], 0))
    taken = tf.concat([shape[:axis], tf.shape(indices), shape[axis + 1 :]], 0)
    return tf.reshape(tf.gather(flat, rows), taken)


def _resized(x: tf.Tensor, axis: int, size: int | None) -> list[int | None]:
    return [size if i == axis else n for i, n in enumerate(x.shape)]
