"""Matrix products that multiply only a sample of the column-row pairs, forward and backward."""

from typing import Any

import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.ops.draw import Draw, check_batch, draw_pairs
from tfapprox.ops.norms import column_norms, fold_in, product_norm, row_norms
from tfapprox.ops.take import spread, take
from tfapprox.sampling.settings import Sampling
from tfapprox.sampling.variants import sample_size


def approx_matmul(
    x: tf.Tensor,
    kernel: tf.Tensor,
    sampling: Sampling,
    seed: tf.Tensor | None = None,
    input_gradient: bool = True,
) -> tf.Tensor:
    """Returns an estimate of x @ kernel from a sample of the n column-row pairs.

    y = sum over the kept i of scale_i X^(i) W_(i). Gradients follow
    `sampling.mode`; in mode "nested" pairs that were dropped get zero gradient,
    and dX and dW may be sampled further, over their own contracted axes: out-features
    by ||dY[:, j]|| ||W[:, j]||, examples by ||X[e, :]|| ||dY[e, :]||. Only the
    gathered rows are kept for the backward pass. With all ratios 1 this is
    `tf.matmul`, bit for bit.

    Args:
      x: [..., n], any leading dimensions; n must be static.
      kernel: [n, p], of the dtype of x.
      seed: int32 [2] for the stateless draws; not needed for top-k.
      input_gradient: False for a first layer, whose dX nobody needs.

    Returns:
      [..., p].

    Raises:
      UserError: shapes that are no dense product, or a missing seed.

    References: Adelman and Silberstein, 2018, Eq. 1-3 and section 5; Sun et al.,
      "meProp", ICML 2017 (simple unified top-k).
    """
    x, kernel = tf.convert_to_tensor(x), tf.convert_to_tensor(kernel)
    if kernel.shape.rank != 2 or x.shape.rank is None or x.shape[-1] != kernel.shape[0]:
        raise UserError(
            f"approx_matmul takes x [..., n] and kernel [n, p], got {x.shape} and {kernel.shape}"
        )
    if not input_gradient:
        x = tf.stop_gradient(x)
    if sampling.exact:
        return tf.matmul(x, kernel)
    rows = tf.reshape(x, [-1, kernel.shape[0]])
    check_batch(rows, sampling)
    y = _product(rows, kernel, sampling, seed)
    shape = tf.concat([tf.shape(x)[:-1], [kernel.shape[1]]], 0)
    return tf.ensure_shape(tf.reshape(y, shape), [*x.shape[:-1], kernel.shape[1]])


def _product(
    x: tf.Tensor, kernel: tf.Tensor, sampling: Sampling, seed: tf.Tensor | None
) -> tf.Tensor:
    if sampling.mode == "forward_only":
        return _sampled_forward_full_gradients(x, kernel, sampling, seed)
    transposed = tf.transpose(x)
    draw = _draw_forward(x, kernel, sampling, seed)
    if draw is not None:
        transposed = take(transposed, draw)
        # tf.gather's own gradient is the unscattered one.
        kept = tf.gather(kernel, draw.indices) if sampling.sparse_gradient else take(kernel, draw)
        kernel = draw.scale(kept)
    if sampling.backward_ratio == 1:
        return tf.matmul(transposed, kernel, transpose_a=True)
    return _product_with_sampled_gradients(transposed, kernel, sampling, seed)


def _draw_forward(
    x: tf.Tensor, kernel: tf.Tensor, sampling: Sampling, seed: tf.Tensor | None
) -> Draw | None:
    """Returns the pairs to keep, or None for all of them."""
    n = kernel.shape[0]
    k = sample_size(n, sampling.forward_ratio)
    if k == n and sampling.threshold is None:
        return None
    weights = row_norms(kernel)
    if sampling.probabilities != "weights":
        weights *= column_norms(x)
    return draw_pairs(
        weights, k, sampling, seed, lambda: product_norm(x, kernel, seed), sampling.threshold
    )


def _sampled_forward_full_gradients(
    x: tf.Tensor, kernel: tf.Tensor, sampling: Sampling, seed: tf.Tensor | None
) -> tf.Tensor:
    @tf.custom_gradient
    def product(x: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # On CPUs much faster than matmul(dy, kernel, transpose_b=True).
            dx = tf.transpose(tf.matmul(kernel, dy, transpose_b=True))
            return dx, tf.matmul(x, dy, transpose_a=True)

        draw = _draw_forward(x, kernel, sampling, seed)
        if draw is None:
            return tf.matmul(x, kernel), gradient
        kept = draw.scale(tf.gather(kernel, draw.indices))
        columns = tf.gather(tf.transpose(x), draw.indices)
        return tf.matmul(columns, kept, transpose_a=True), gradient

    return product(x, kernel)


def _product_with_sampled_gradients(
    a: tf.Tensor, b: tf.Tensor, sampling: Sampling, seed: tf.Tensor | None
) -> tf.Tensor:
    """Returns a^T b, [m, p], for a [k, m] and b [k, p], whose gradients are sampled."""

    @tf.custom_gradient
    def product(a: tf.Tensor, b: tf.Tensor) -> Any:
        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            if sampling.mode == "meprop":
                return _unified_top_k_gradients(a, b, dy, sampling, seed)
            return (
                _sampled_input_gradient(b, dy, sampling, fold_in(seed, 1)),
                _sampled_kernel_gradient(a, dy, sampling, fold_in(seed, 2)),
            )

        return tf.matmul(a, b, transpose_a=True), gradient

    return product(a, b)


def _sampled_input_gradient(
    b: tf.Tensor, dy: tf.Tensor, sampling: Sampling, seed: tf.Tensor | None
) -> tf.Tensor:
    """Returns an estimate of b dY^T, [k, m], from a sample of the p out-features."""
    p = b.shape[1]
    k = sample_size(p, sampling.backward_ratio, sampling.min_samples)
    if k == p:
        return tf.matmul(b, dy, transpose_b=True)
    weights = column_norms(b)
    if sampling.probabilities != "weights":
        weights *= column_norms(dy)
    own = sampling.gradients
    draw = draw_pairs(weights, k, own, seed, lambda: product_norm(b, tf.transpose(dy), seed))
    kept = draw.scale(take(b, draw, axis=1), axis=1)
    return tf.matmul(kept, take(dy, draw, axis=1), transpose_b=True)


def _sampled_kernel_gradient(
    a: tf.Tensor, dy: tf.Tensor, sampling: Sampling, seed: tf.Tensor | None
) -> tf.Tensor:
    """Returns an estimate of a dY, [k, p], from a sample of the m examples."""
    examples = dy.shape[0]
    k = sample_size(examples, sampling.backward_ratio, sampling.min_samples)
    if k == examples:
        return tf.matmul(a, dy)
    weights = column_norms(a) * row_norms(dy)
    draw = draw_pairs(weights, k, sampling.for_gradients, seed)
    return tf.matmul(take(a, draw, axis=1), draw.scale(tf.gather(dy, draw.indices)))


def _unified_top_k_gradients(
    a: tf.Tensor, b: tf.Tensor, dy: tf.Tensor, sampling: Sampling, seed: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns b dY^T and a dY with the same few columns of dY kept in both (meProp)."""
    p = b.shape[1]
    k = sample_size(p, sampling.backward_ratio, sampling.min_samples)
    if k == p:
        return tf.matmul(b, dy, transpose_b=True), tf.matmul(a, dy)
    draw = draw_pairs(column_norms(dy), k, sampling, seed)
    kept = draw.scale(take(dy, draw, axis=1), axis=1)
    da = tf.matmul(take(b, draw, axis=1), kept, transpose_b=True)
    return da, spread(tf.matmul(a, kept), draw, p, axis=1)
