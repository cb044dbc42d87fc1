"""Norms that sampling weighs pairs by; gradients never flow through them."""

import tensorflow as tf

from tfapprox.ops.by_compiler import by_compiler

# Sign vectors behind the estimate of ||AB||_F^2.
_PROBES = 4
# Squares of so many entries at once stay in the cache; arrays of over 32 MB would moreover be
# new memory in every step, whose first touch costs more than the squares.
_PIECE = 2**20
_MOST_PIECES = 32


def row_norms(x: tf.Tensor) -> tf.Tensor:
    """Returns ||x[i, :]||, float32 [n], for x [n, m]."""
    pieces = [_row_sums(tf.square(piece)) for piece in _pieces(_stopped(x))]
    return _root(tf.concat(pieces, 0))


def column_norms(x: tf.Tensor) -> tf.Tensor:
    """Returns ||x[:, j]||, float32 [m], for x [n, m]."""
    x = _stopped(x)

    def products() -> tf.Tensor:
        return tf.add_n([_column_sums(tf.square(piece)) for piece in _pieces(x)])

    return _root(by_compiler(products, lambda: tf.reduce_sum(tf.square(x), 0)))


def channel_norms(x: tf.Tensor) -> tf.Tensor:
    """Returns the norms over all but the last axis, float32 [channels]."""
    return column_norms(tf.reshape(x, [-1, x.shape[-1]]))


def kernel_channel_norms(kernel: tf.Tensor) -> tf.Tensor:
    """Returns ||K_[i]||, float32 [I], for a kernel [H, W, I, O]."""
    # Over the taps first: at 3x3x640x640 within XLA a fifth of the time of one sum.
    return _root(_row_sums(tf.reduce_sum(tf.square(_stopped(kernel)), [0, 1])))


def product_norm(a: tf.Tensor, b: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns an unbiased estimate of ||a b||_F^2 for a [m, n], b [n, p] from random sign vectors.

    References: Hutchinson, "A stochastic estimator of the trace", 1990.
    """
    a, b = tf.stop_gradient(a), tf.stop_gradient(b)
    signs = random_signs([b.shape[1], _PROBES], seed, b.dtype)
    probes = tf.cast(tf.matmul(a, tf.matmul(b, signs)), tf.float32)
    return tf.reduce_sum(probes**2) / _PROBES


def random_signs(shape: list[int], seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns independent -1 and +1 of equal chance."""
    bits = tf.random.stateless_uniform(shape, fold_in(seed, 7), 0, 2, tf.int32)
    return tf.cast(2 * bits - 1, dtype)


def fold_in(seed: tf.Tensor | None, number: int) -> tf.Tensor | None:
    """Returns another seed for another use; None stays None."""
    return None if seed is None else tf.random.experimental.stateless_fold_in(seed, number)


def _pieces(x: tf.Tensor) -> list[tf.Tensor]:
    """Returns views of consecutive rows of x [n, m], one of all if its size isn't known."""
    entries = x.shape.num_elements()
    if entries is None or entries <= _PIECE:
        return [x]
    count = min(_MOST_PIECES, -(-entries // _PIECE))
    step = -(-x.shape[0] // count)
    return [x[start : start + step] for start in range(0, x.shape[0], step)]


def _column_sums(x: tf.Tensor) -> tf.Tensor:
    """Returns the sums of the columns; on CPUs einsum("ij->j") takes up to four times as long."""
    return tf.matmul(tf.ones([1, tf.shape(x)[0]], x.dtype), x)[0]


def _row_sums(x: tf.Tensor) -> tf.Tensor:
    """Returns the sums of the rows, as a product: XLA's reductions along rows use no vectors."""
    return tf.matmul(x, tf.ones([tf.shape(x)[1], 1], x.dtype))[:, 0]


def _stopped(x: tf.Tensor) -> tf.Tensor:
    # Stopped first, so that an eager tape keeps nothing of the norms.
    x = tf.stop_gradient(x)
    # Half precision would overflow at 256^2; float64 keeps its own precision.
    return x if x.dtype in (tf.float32, tf.float64) else tf.cast(x, tf.float32)


def _root(squares: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.sqrt(squares), tf.float32)
