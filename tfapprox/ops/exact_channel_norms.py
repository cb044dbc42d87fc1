"""Weights of the optimal channel probabilities, by Gram matrices of patches and kernel taps."""

import tensorflow as tf

Pair = tuple[int, int]


def exact_channel_norms(
    x: tf.Tensor, kernel: tf.Tensor, strides: Pair, padding: str, dilations: Pair
) -> tf.Tensor:
    """Returns alpha_i = ||I^[i] * K_[i]||_F, float32 [I], without convolving.

    alpha_i^2 = <S_i, G_i>; the patch Gram matrix S_i is summed tap pair by tap pair
    from shifted views of the input, for about (KH KW + 1) / (2 O) of the MACs of the
    convolution.

    Args:
      x: [N, H, W, I], H and W static.
      kernel: [KH, KW, I, O].
      padding: "SAME" or "VALID".

    References: Adelman and Silberstein, 2018, Proposition 2, with the errata of
      `tfapprox.sampling.probabilities.exact_channel_weights`.
    """
    x, kernel = (tf.stop_gradient(tf.cast(t, tf.float32)) for t in (x, kernel))
    views = _tap_views(x, kernel.shape[:2], strides, padding, dilations)
    taps = tf.reshape(kernel, [len(views), kernel.shape[2], kernel.shape[3]])
    gram = tf.einsum("sio,tio->sti", taps, taps)
    total = tf.zeros([kernel.shape[2]])
    for s, left in enumerate(views):
        for t, right in enumerate(views[: s + 1]):
            both = tf.einsum("ni,ni->i", left, right) * gram[s, t]
            total += both if s == t else 2 * both
    # Cancellation may leave a tiny negative rest.
    return tf.sqrt(tf.nn.relu(total))


def _tap_views(
    x: tf.Tensor, taps: tf.TensorShape, strides: Pair, padding: str, dilations: Pair
) -> list[tf.Tensor]:
    """Returns what each kernel tap sees, [positions, I] for each of the KH KW taps."""
    axes = []
    pads = [[0, 0]]
    for axis in (0, 1):
        size, stride, dilation = x.shape[1 + axis], strides[axis], dilations[axis]
        reach = (taps[axis] - 1) * dilation + 1
        if padding == "SAME":
            count = -(-size // stride)
            zeros = max(0, (count - 1) * stride + reach - size)
        else:
            count, zeros = (size - reach) // stride + 1, 0
        pads.append([zeros // 2, zeros - zeros // 2])
        stop = (count - 1) * stride + 1
        axes.append([(t * dilation, t * dilation + stop, stride) for t in range(taps[axis])])
    padded = tf.pad(x, [*pads, [0, 0]])
    channels = x.shape[3]
    return [
        tf.reshape(padded[:, slice(*rows), slice(*columns)], [-1, channels])
        for rows in axes[0]
        for columns in axes[1]
    ]
