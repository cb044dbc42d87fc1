"""Probabilities of column-row pairs: norm-proportional, exact for convolutions, mixed, clipped."""

import numpy as np

Pads = tuple[tuple[int, int], tuple[int, int]]


def pair_weights(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns w_i = ||A^(i)|| ||B_(i)||, float64 [n], for A [m, n] and B [n, p].

    References: Adelman and Silberstein, 2018, Eq. 3.
    """
    return np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=1)


def channel_weights(inputs: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns ||I^[i]||_F ||K_[i]||_F, [I], for inputs [N, H, W, I] and kernel [H, W, I, O].

    References: Adelman and Silberstein, 2018, Eq. 8.
    """
    inputs_norm = np.sqrt(np.einsum("nhwi,nhwi->i", inputs, inputs))
    return inputs_norm * np.sqrt(np.einsum("hwio,hwio->i", kernel, kernel))


def exact_channel_weights(
    inputs: np.ndarray,
    kernel: np.ndarray,
    pads: Pads,
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Returns alpha_i = ||I^[i] * K_[i]||_F, [I]: the weights of the optimal probabilities.

    alpha_i^2 = <S_i, G_i> with S_i the Gram matrix of channel i's patches over all
    output positions and G_i = K_i K_i^T that of its kernel taps over output
    channels. This is ||I^[i]||^2 ||K_[i]||^2 - E_i + R_i for any stride and padding.

    Args:
      inputs: [N, H, W, I].
      kernel: [KH, KW, I, O].
      pads: zeros added ((top, bottom), (left, right)).

    References: Adelman and Silberstein, 2018, Proposition 2. Their E covers the top
      and left edges only, and their R leaves out tap pairs of one row or column; the
      Gram form has neither gap.
    """
    height, width, channels, _ = kernel.shape
    padded = np.pad(inputs, ((0, 0), *pads, (0, 0)))
    rows = (padded.shape[1] - (height - 1) * dilations[0] - 1) // strides[0] + 1
    columns = (padded.shape[2] - (width - 1) * dilations[1] - 1) // strides[1] + 1
    taps = [
        padded[:, top : top + strides[0] * (rows - 1) + 1 : strides[0]][
            :, :, left : left + strides[1] * (columns - 1) + 1 : strides[1]
        ].reshape(-1, channels)
        for top in range(0, height * dilations[0], dilations[0])
        for left in range(0, width * dilations[1], dilations[1])
    ]
    patches = np.stack(taps)
    patch_gram = np.einsum("spi,tpi->ist", patches, patches, optimize=True)
    flat = kernel.reshape(height * width, channels, -1)
    kernel_gram = np.einsum("sio,tio->ist", flat, flat, optimize=True)
    squares = np.einsum("ist,ist->i", patch_gram, kernel_gram)
    return np.sqrt(np.maximum(squares, 0))


def probabilities(weights: np.ndarray, weighting: str = "norm", mix: float = 0.0) -> np.ndarray:
    """Returns p, float64 [n]: proportional to the weights or uniform, with a uniform share `mix`.

    Without any positive weight the result is uniform.
    """
    n = weights.size
    total = weights.sum()
    if weighting == "uniform" or total <= 0:
        return np.full(n, 1 / n)
    return (1 - mix) * weights / total + mix / n


def keep_probabilities(p: np.ndarray, k: int, mix: float = 0.0) -> np.ndarray:
    """Returns Bernoulli keep probabilities q_i = min(1, c p_i) that add up to k, [n].

    Mass clipped at 1 goes to the others in proportion. Mixing is done on q, as
    (1 - mix) q + mix k / n: without the k too few pairs would be kept.

    References: Adelman et al., "Faster Neural Network Training with Approximate
      Tensor Operations", NeurIPS 2021, section 3.
    """
    order = np.argsort(-p, kind="stable")
    ranked = p[order]
    tail = np.cumsum(ranked[::-1])[::-1]
    clipped = np.arange(p.size)
    factor = np.where(clipped < k, (k - clipped) / np.maximum(tail, 1e-300), 0)
    # The first count of clipped pairs after which the next pair fits below 1.
    first = int(np.argmax(factor * ranked <= 1))
    q = np.ones_like(p)
    q[order[first:]] = factor[first] * ranked[first:]
    return (1 - mix) * q + mix * k / p.size


def winners(p: np.ndarray, k: int) -> np.ndarray:
    """Returns the pairs that winner-take-all sampling keeps for certain, int [c], c < k.

    They are the c most probable ones, with c minimising (1 - P_C) / (k - c).

    References: Liu et al., "Winner-Take-All Column Row Sampling for Memory Efficient
      Adaptation of Language Model", NeurIPS 2023, Theorem 2.
    """
    order = np.argsort(-p, kind="stable")
    kept_mass = np.concatenate([[0.0], np.cumsum(p[order[: k - 1]])])
    count = int(np.argmin((1 - kept_mass) / (k - np.arange(k))))
    return order[:count]
