"""Drawing column-row pairs in TensorFlow, with static sizes and stateless seeds."""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.sampling.settings import Sampling

# Standard deviations of head room in the padded form of Bernoulli sampling: more
# pairs than fit come up in fewer than 1 of 30,000 draws.
_BERNOULLI_ROOM = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """Drawn pairs.

    Attributes:
      indices: int32 [k], repeated when drawn with replacement.
      scales: float32 [k], or None when all are 1. Zero marks padding.
      distinct: whether no index comes twice.
    """

    indices: tf.Tensor
    scales: tf.Tensor | None
    distinct: bool

    def scale(self, rows: tf.Tensor, axis: int = 0) -> tf.Tensor:
        """Returns `rows` with entry t along `axis` multiplied by scale t."""
        if self.scales is None:
            return rows
        shape = [1] * rows.shape.rank
        shape[axis] = -1
        return rows * tf.cast(tf.reshape(self.scales, shape), rows.dtype)


def draw_pairs(
    weights: tf.Tensor,
    k: int,
    sampling: Sampling,
    seed: tf.Tensor | None = None,
    product_norm: Callable[[], tf.Tensor] | None = None,
    threshold: float | None = None,
) -> Draw:
    """Returns k of the pairs; see `tfapprox.sampling.column_row.draw` for the mathematics.

    No gradient flows through the choice. Bernoulli sampling comes padded to a
    static size with pairs of scale 0.

    Args:
      weights: w_i >= 0, float32 [n].
      k: pairs to draw, 1 <= k < n.
      seed: int32 [2]; needed unless the choice is deterministic.
      product_norm: gives (an estimate of) C = ||AB||_F^2, for scale "auto".
      threshold: see `Sampling`; the number of pairs is then dynamic.

    Raises:
      UserError: a random variant came without a seed.
    """
    rule = sampling.rule
    weights = tf.stop_gradient(tf.cast(weights, tf.float32))
    if not rule.random:
        return _largest(weights, k, threshold)
    if seed is None:
        raise UserError(f"sampling {sampling.variant!r} is random: pass seed, int32 of shape [2]")
    p = _probabilities(weights, sampling)
    if rule.selection == "independent":
        indices, scales = _independent(p, k, seed)
    elif rule.selection == "successive":
        indices, scales = _successive(p, k, seed, sampling)
    elif rule.selection == "bernoulli":
        indices, scales = _bernoulli(_keep_probabilities(p, k, sampling.mix), k, seed)
    else:
        indices, scales = _winners(p, k, seed)
    distinct = rule.selection in ("successive", "bernoulli")
    return Draw(indices, _choose_scales(scales, weights, k, sampling, product_norm), distinct)


def check_batch(x: tf.Tensor, sampling: Sampling) -> None:
    """Refuses an unknown number of examples where gradients are sampled among them.

    Raises:
      UserError: see above; with the ways out.
    """
    if x.shape[0] is None and sampling.mode == "nested" and sampling.backward_ratio < 1:
        raise UserError(
            "sampling the gradients needs a fixed number of examples: give the model a batch "
            "size (drop_remainder=True in the data), or set backward_ratio to 1"
        )


def _choose_scales(
    scales: tf.Tensor,
    weights: tf.Tensor,
    k: int,
    sampling: Sampling,
    product_norm: Callable[[], tf.Tensor] | None,
) -> tf.Tensor | None:
    if sampling.scale is True:
        return scales
    plain = tf.cast(scales > 0, tf.float32)
    if sampling.scale == "auto":
        if product_norm is None:
            raise ValueError("scale 'auto' needs product_norm")
        # The rule of sampling.expected_error.plain_sum_wins.
        n = weights.shape[0]
        product, ratio = tf.stop_gradient(product_norm()), k / n
        spread = tf.nn.relu(tf.reduce_sum(weights**2) - product / n) * n / (n - 1)
        return tf.where(product * ratio <= (1 + ratio) * spread, plain, scales)
    return plain if sampling.rule.selection == "bernoulli" else None


def _probabilities(weights: tf.Tensor, sampling: Sampling) -> tf.Tensor:
    n = weights.shape[0]
    uniform = tf.fill([n], tf.constant(1 / n, tf.float32))
    if sampling.rule.weighting == "uniform":
        return uniform
    total = tf.reduce_sum(weights)
    p = tf.where(total > 0, tf.math.divide_no_nan(weights, total), uniform)
    # Bernoulli sampling mixes its keep probabilities instead.
    mix = 0.0 if sampling.rule.selection == "bernoulli" else sampling.mix
    return (1 - mix) * p + mix * uniform


def _largest(weights: tf.Tensor, k: int, threshold: float | None) -> Draw:
    values, indices = tf.math.top_k(weights, k, sorted=threshold is not None)
    if threshold is not None:
        held = tf.cumsum(values) < threshold * tf.reduce_sum(weights)
        indices = indices[: 1 + tf.math.count_nonzero(held[:-1], dtype=tf.int32)]
    return Draw(indices, None, distinct=True)


def _independent(p: tf.Tensor, k: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    cumulative = tf.cumsum(p)
    points = tf.random.stateless_uniform([k], seed) * cumulative[-1]
    indices = tf.searchsorted(cumulative, points, side="right")
    indices = tf.minimum(indices, p.shape[0] - 1)
    return indices, 1 / (k * tf.gather(p, indices))


def _successive(
    p: tf.Tensor, k: int, seed: tf.Tensor, sampling: Sampling
) -> tuple[tf.Tensor, tf.Tensor]:
    n = p.shape[0]
    noise = tf.maximum(tf.random.stateless_uniform([n], seed), 1e-12)
    keys = tf.math.log(p) - tf.math.log(-tf.math.log(noise))
    values, order = tf.math.top_k(keys, k + 1)
    indices = order[:k]
    if sampling.rule.weighting == "uniform":
        return indices, tf.fill([k], tf.constant(n / k, tf.float32))
    kept = tf.gather(p, indices)
    chance = -tf.math.expm1(-tf.math.multiply_no_nan(tf.exp(-values[k]), kept))
    return indices, tf.where(kept > 0, 1 / chance, 1.0)


def _keep_probabilities(p: tf.Tensor, k: int, mix: float) -> tf.Tensor:
    n = p.shape[0]
    ranked, order = tf.math.top_k(p, n)
    tail = tf.cumsum(ranked, reverse=True)
    clipped = tf.range(n)
    factor = tf.math.divide_no_nan(tf.cast(tf.nn.relu(k - clipped), tf.float32), tail)
    fits = tf.cast(factor * ranked <= 1, tf.int32)
    first = tf.argmax(fits, output_type=tf.int32)
    q_ranked = tf.where(clipped < first, 1.0, factor[first] * ranked)
    # XLA has refused invert_permutation within Keras's steps_per_execution.
    q = tf.scatter_nd(order[:, tf.newaxis], q_ranked, [n])
    return (1 - mix) * tf.minimum(q, 1) + mix * k / n


def _bernoulli(q: tf.Tensor, k: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    n = q.shape[0]
    room = min(n, k + math.ceil(_BERNOULLI_ROOM * math.sqrt(k * (1 - k / n))))
    margin, indices = tf.math.top_k(q - tf.random.stateless_uniform([n], seed), room)
    chance = tf.gather(q, indices)
    return indices, tf.where(margin > 0, 1 / chance, 0.0)


def _winners(p: tf.Tensor, k: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    ranked, order = tf.math.top_k(p, k)
    left = 1 - tf.cumsum(ranked, exclusive=True)
    draws = tf.cast(k - tf.range(k), tf.float32)
    count = tf.argmin(left / draws, output_type=tf.int32)
    winning = tf.range(k) < count
    rest = tf.tensor_scatter_nd_update(p, order[:, tf.newaxis], tf.where(winning, 0.0, ranked))
    rest /= tf.reduce_sum(rest)
    drawn, scales = _independent(rest, k, seed)
    scales *= k / tf.cast(k - count, tf.float32)
    return tf.where(winning, order, drawn), tf.where(winning, 1.0, scales)
