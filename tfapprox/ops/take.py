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

        taken = _innermost(
            product, lambda: tf.gather(x, indices, axis=axis), axis == x.shape.rank - 1, size
        )
        return taken, gradient

    return gather(x)


def spread(rows: tf.Tensor, draw: Draw, size: int, axis: int = 0) -> tf.Tensor:
    """Returns zeros of `size` along `axis` with `rows` added at the drawn indices.

    Args:
      rows: k entries along `axis`.
    """
    axis %= rows.shape.rank

    def product() -> tf.Tensor:
        return tf.tensordot(rows, tf.one_hot(draw.indices, size, dtype=rows.dtype), 1)

    inner = axis == rows.shape.rank - 1
    result = _innermost(product, lambda: _scatter(rows, draw, size, axis), inner, size)
    static = rows.shape.as_list()
    static[axis] = size
    return tf.ensure_shape(result, static)


def _scatter(rows: tf.Tensor, draw: Draw, size: int, axis: int) -> tf.Tensor:
    if draw.distinct:
        return _gather_back(rows, draw.indices, size, axis)
    if axis == 0:
        shape = tf.concat([[size], tf.shape(rows)[1:]], 0)
        return tf.scatter_nd(draw.indices[:, tf.newaxis], rows, shape)
    order = [axis, *(i for i in range(rows.shape.rank) if i != axis)]
    moved = _scatter(tf.transpose(rows, order), draw, size, 0)
    return tf.transpose(moved, [order.index(i) for i in range(len(order))])


def _gather_back(rows: tf.Tensor, indices: tf.Tensor, size: int, axis: int) -> tf.Tensor:
    """Gathers from the rows and one zero in front: mostly faster than scattering."""
    place = tf.scatter_nd(indices[:, tf.newaxis], 1 + tf.range(tf.size(indices)), [size])
    pads = [[int(i == axis), 0] for i in range(rows.shape.rank)]
    return tf.gather(tf.pad(rows, pads), place, axis=axis)


def _innermost(
    product: Callable[[], tf.Tensor], moving: Callable[[], tf.Tensor], inner: bool, size: int
) -> tf.Tensor:
    """Returns the product with a 0-1 matrix, or the same by gathering, whatever is faster.

    Along the innermost axis TensorFlow's kernels gather and scatter slowly on CPUs; XLA
    and GPUs don't.
    """
    return by_compiler(product, moving) if inner and size <= _PRODUCT_SIZE else moving()
