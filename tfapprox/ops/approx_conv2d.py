"""Convolutions that use only a sample of the input channels, forward and backward."""

import dataclasses
from typing import Any

import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.ops.draw import Draw, check_batch, draw_pairs
from tfapprox.ops.exact_channel_norms import exact_channel_norms
from tfapprox.ops.norms import (
    channel_norms,
    fold_in,
    kernel_channel_norms,
    random_signs,
    row_norms,
)
from tfapprox.ops.take import spread, take
from tfapprox.sampling.settings import Sampling
from tfapprox.sampling.variants import sample_size

Pair = tuple[int, int]
_PROBES = 4


@dataclasses.dataclass(frozen=True)
class Placement:
    """Strides, padding ("SAME" or "VALID") and dilations, in (height, width) order."""

    strides: Pair = (1, 1)
    padding: str = "SAME"
    dilations: Pair = (1, 1)

    def __post_init__(self):
        if self.padding not in ("SAME", "VALID"):
            raise UserError(f"padding must be SAME or VALID, got {self.padding!r}")

    def convolve(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(x, kernel, self.strides, self.padding, dilations=self.dilations)

    def input_gradient(self, shape: tf.Tensor, kernel: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=shape, filter=kernel, out_backprop=dy, **self._attributes()
        )

    def kernel_gradient(self, x: tf.Tensor, shape: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=shape, out_backprop=dy, **self._attributes()
        )

    def _attributes(self) -> dict:
        return {
            "strides": [1, *self.strides, 1],
            "padding": self.padding,
            "dilations": [1, *self.dilations, 1],
        }


def approx_conv2d(
    x: tf.Tensor,
    kernel: tf.Tensor,
    sampling: Sampling,
    placement: Placement | None = None,
    seed: tf.Tensor | None = None,
    input_gradient: bool = True,
) -> tf.Tensor:
    """Returns an estimate of the convolution from a sample of the input channels.

    As `approx_matmul`, with channels in place of columns and rows. Sampled gradients
    draw output channels by the norms of dY and K for dX, and examples by the norms
    of X[e] and dY[e] for dK.

    Args:
      x: [N, H, W, I].
      kernel: [KH, KW, I, O]; grouped kernels are refused.
      placement: default stride 1, SAME.
      seed: int32 [2]; not needed for top-k.
      input_gradient: False for a first layer, whose dX nobody needs.

    Returns:
      [N, OH, OW, O].

    Raises:
      UserError: shapes that are no plain convolution, or a missing seed.

    References: Adelman and Silberstein, 2018, Eq. 6, 8, 15 and section 5.
    """
    x, kernel = tf.convert_to_tensor(x), tf.convert_to_tensor(kernel)
    placement = placement or Placement()
    if x.shape.rank != 4 or kernel.shape.rank != 4:
        raise UserError(
            "approx_conv2d takes x [N, H, W, I] and kernel [KH, KW, I, O], "
            f"got {x.shape} and {kernel.shape}"
        )
    if x.shape[3] != kernel.shape[2]:
        raise UserError(
            f"x has {x.shape[3]} channels and the kernel {kernel.shape[2]}: a group sees too few "
            "channels to sample among; keep grouped convolutions exact"
        )
    if not input_gradient:
        x = tf.stop_gradient(x)
    if sampling.exact:
        return placement.convolve(x, kernel)
    check_batch(x, sampling)
    if sampling.mode == "forward_only":
        return _sampled_forward_full_gradients(x, kernel, sampling, placement, seed)
    draw = _draw_forward(x, kernel, sampling, placement, seed)
    if draw is not None:
        x = take(x, draw, axis=3)
        kernel = draw.scale(take(kernel, draw, axis=2), axis=2)
    if sampling.backward_ratio == 1:
        return placement.convolve(x, kernel)
    return _convolution_with_sampled_gradients(x, kernel, sampling, placement, seed)


def _draw_forward(
    x: tf.Tensor,
    kernel: tf.Tensor,
    sampling: Sampling,
    placement: Placement,
    seed: tf.Tensor | None,
) -> Draw | None:
    """Returns the channels to keep, or None for all of them."""
    channels = kernel.shape[2]
    k = sample_size(channels, sampling.forward_ratio)
    if k == channels and sampling.threshold is None:
        return None
    if sampling.probabilities == "exact":
        weights = exact_channel_norms(
            x, kernel, placement.strides, placement.padding, placement.dilations
        )
    else:
        weights = kernel_channel_norms(kernel)
        if sampling.probabilities == "norms":
            weights *= channel_norms(x)

    def convolution_norm() -> tf.Tensor:
        signs = random_signs([kernel.shape[3], _PROBES], seed, kernel.dtype)
        probes = placement.convolve(x, tf.tensordot(kernel, signs, 1))
        return tf.reduce_sum(tf.cast(probes, tf.float32) ** 2) / _PROBES

    return draw_pairs(weights, k, sampling, seed, convolution_norm, sampling.threshold)


def _sampled_forward_full_gradients(
    x: tf.Tensor,
    kernel: tf.Tensor,
    sampling: Sampling,
    placement: Placement,
    seed: tf.Tensor | None,
) -> tf.Tensor:
    @tf.custom_gradient
    def convolution(x: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            dx = placement.input_gradient(tf.shape(x), kernel, dy)
            return dx, placement.kernel_gradient(x, tf.shape(kernel), dy)

        draw = _draw_forward(x, kernel, sampling, placement, seed)
        if draw is None:
            return placement.convolve(x, kernel), gradient
        kept = draw.scale(take(kernel, draw, axis=2), axis=2)
        return placement.convolve(take(x, draw, axis=3), kept), gradient

    return convolution(x, kernel)


def _convolution_with_sampled_gradients(
    x: tf.Tensor,
    kernel: tf.Tensor,
    sampling: Sampling,
    placement: Placement,
    seed: tf.Tensor | None,
) -> tf.Tensor:
    @tf.custom_gradient
    def convolution(x: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            if sampling.mode == "meprop":
                return _unified_top_k_gradients(x, kernel, dy, sampling, placement, seed)
            return (
                _sampled_input_gradient(x, kernel, dy, sampling, placement, fold_in(seed, 1)),
                _sampled_kernel_gradient(x, kernel, dy, sampling, placement, fold_in(seed, 2)),
            )

        return placement.convolve(x, kernel), gradient

    return convolution(x, kernel)


def _sampled_input_gradient(
    x: tf.Tensor,
    kernel: tf.Tensor,
    dy: tf.Tensor,
    sampling: Sampling,
    placement: Placement,
    seed: tf.Tensor | None,
) -> tf.Tensor:
    """Returns an estimate of dX from a sample of the output channels."""
    filters = kernel.shape[3]
    k = sample_size(filters, sampling.backward_ratio, sampling.min_samples)
    if k < filters:
        weights = channel_norms(kernel)
        if sampling.probabilities != "weights":
            weights *= channel_norms(dy)
        draw = draw_pairs(weights, k, sampling.for_gradients, seed)
        kernel = draw.scale(take(kernel, draw, axis=3), axis=3)
        dy = take(dy, draw, axis=3)
    return placement.input_gradient(tf.shape(x), kernel, dy)


def _sampled_kernel_gradient(
    x: tf.Tensor,
    kernel: tf.Tensor,
    dy: tf.Tensor,
    sampling: Sampling,
    placement: Placement,
    seed: tf.Tensor | None,
) -> tf.Tensor:
    """Returns an estimate of dK from a sample of the examples."""
    examples = dy.shape[0]
    k = sample_size(examples, sampling.backward_ratio, sampling.min_samples)
    if k < examples:
        weights = row_norms(_flat(x)) * row_norms(_flat(dy))
        draw = draw_pairs(weights, k, sampling.for_gradients, seed)
        x, dy = tf.gather(x, draw.indices), draw.scale(tf.gather(dy, draw.indices))
    return placement.kernel_gradient(x, tf.shape(kernel), dy)


def _unified_top_k_gradients(
    x: tf.Tensor,
    kernel: tf.Tensor,
    dy: tf.Tensor,
    sampling: Sampling,
    placement: Placement,
    seed: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns dX and dK from the same few output channels of dY (meProp)."""
    filters = kernel.shape[3]
    k = sample_size(filters, sampling.backward_ratio, sampling.min_samples)
    if k == filters:
        dx = placement.input_gradient(tf.shape(x), kernel, dy)
        return dx, placement.kernel_gradient(x, tf.shape(kernel), dy)
    draw = draw_pairs(channel_norms(dy), k, sampling, seed)
    dy = draw.scale(take(dy, draw, axis=3), axis=3)
    kernel = take(kernel, draw, axis=3)
    dx = placement.input_gradient(tf.shape(x), kernel, dy)
    dk = placement.kernel_gradient(x, tf.shape(kernel), dy)
    return dx, spread(dk, draw, filters, axis=3)


def _flat(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [x.shape[0], -1])
