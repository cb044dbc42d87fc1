"""Sums of rank-one terms: fitting them without terms that cancel one another."""

import dataclasses

import numpy as np

from tfapprox.decompositions.spectra import gram

# Weight of staying near, in shares of each term's own weight in the normal equations.
_PROXIMITY = 1e-3
_SWEEPS = 30
_WORK = 3e10  # multiply-adds that all sweeps together may cost; two are always made


@dataclasses.dataclass(frozen=True, eq=False)
class Terms:
    """A kernel as a sum of R outer products of one vector for each of its four axes.

      W[h, w, i, o] = sum_r height[h, r] width[w, r] inputs[i, r] outputs[o, r]

    Attributes:
      height, width, inputs, outputs: [H, R], [W, R], [I, R], [O, R].
    """

    height: np.ndarray
    width: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray

    @property
    def factors(self) -> tuple[np.ndarray, ...]:
        return self.height, self.width, self.inputs, self.outputs

    def compose(self) -> np.ndarray:
        """Returns the kernel, [H, W, I, O]."""
        taps = self.height[:, None] * self.width[None]
        return (taps[:, :, None] * self.inputs) @ self.outputs.T

    def balanced(self) -> "Terms":
        """Returns the same terms, each with equal norms on all axes."""
        norms = [np.linalg.norm(factor, axis=0) for factor in self.factors]
        level = np.prod(norms, axis=0) ** (1 / 4)
        scales = [level / np.where(norm > 0, norm, 1.0) for norm in norms]
        return Terms(*(f * scale for f, scale in zip(self.factors, scales, strict=True)))

    def sensitivity(self) -> float:
        """Returns how much unit noise in the factors moves the kernel, on average.

          sum_n I_n sum_r prod_{m != n} ||a_r^(m)||^2,

        the expected squared change of the kernel, to first order, for independent noise
        of variance 1 in every entry. Terms that nearly cancel have large norms and so a
        large sensitivity: rounding and the first steps of training then do great harm.

        References:
          Phan et al.: Stable Low-rank Tensor Decomposition for Compression of
          Convolutional Neural Network, 2020, Definition 1 and Lemma 1.
        """
        squares = [np.sum(np.square(f), axis=0, dtype=np.float64) for f in self.factors]
        return float(
            sum(
                len(factor) * np.sum(np.prod(squares[:axis] + squares[axis + 1 :], axis=0))
                for axis, factor in enumerate(self.factors)
            )
        )


def orthogonal_terms(kernel: np.ndarray, rank: int) -> Terms:
    """Returns the `rank` largest of H W min(I, O) orthogonal terms that add up to the kernel.

    The singular vectors of the height and of the width axis give H W patterns; the
    kernel seen through each is a matrix I x O with an SVD of its own. All terms
    together are the kernel, and they are orthogonal: leaving some out costs exactly
    their own energy, and none can cancel another.

    Args:
      kernel: [H, W, I, O], float32 or float64.
      rank: from 1 to H W min(I, O).
    """
    height, width = kernel.shape[:2]
    rows = _basis(kernel.reshape(height, -1))
    columns = _basis(kernel.swapaxes(0, 1).reshape(width, -1))
    slices = np.einsum("ha,wb,hwio->abio", rows, columns, kernel, optimize=True)
    left, values, right = np.linalg.svd(slices, full_matrices=False)
    largest = np.argsort(-values, axis=None, kind="stable")[:rank]
    a, b, r = np.unravel_index(largest, values.shape)
    terms = Terms(rows[:, a], columns[:, b], (left[a, b, :, r] * values[a, b, r, None]).T,
                  right[a, b, r].T)  # fmt: skip
    return terms.balanced()


def _basis(matrix: np.ndarray) -> np.ndarray:
    """Returns all left singular vectors of a matrix with few rows, the largest first."""
    return np.linalg.eigh(gram(matrix))[1][:, ::-1].astype(matrix.dtype)


def fit_terms(kernel: np.ndarray, start: Terms, growth: float, gain: float = 1e-3) -> Terms:
    """Returns terms with at most the start's error, by proximal alternating least squares.

    Each axis in turn minimises ||W - W_hat||_F^2 + sum_r mu_r ||a_r - a_r_before||^2,
    so the error never rises and an exact start stays exact. Sweeps end when one gains
    too little, when a large kernel has had its share of work, or before one would leave
    a sensitivity above `growth` times the start's: plain ALS then goes on to gain
    little by terms that grow and cancel.

    Args:
      kernel: [H, W, I, O], float32 or float64.
      start: the terms to begin with.
      growth: at least 1.
      gain: sweeps end when the squared error falls by less than this share of itself.

    References:
      Phan et al. 2020, Section 3, where the sensitivity is minimised at a bounded error;
      we minimise the error at a bounded sensitivity. Lebedev et al.: Speeding-up
      Convolutional Neural Networks Using Fine-tuned CP-Decomposition, 2015, Section 3.
    """
    taps = kernel.reshape(-1, *kernel.shape[2:])
    energy = float(np.sum(np.square(kernel), dtype=np.float64))
    best, bound = start, growth * start.sensitivity()
    lost = _squared_error(kernel, start)
    rank = start.inputs.shape[1]
    cost_of_one = 3 * kernel.size * rank + 2 * rank**3
    for _ in range(max(2, min(_SWEEPS, int(_WORK / cost_of_one)))):
        terms = _sweep(taps, best).balanced()
        before, lost = lost, _squared_error(kernel, terms)
        if terms.sensitivity() > bound or lost > before:
            return best
        best = terms
        if before - lost <= gain * before or lost <= 1e-12 * energy:
            return best
    return best


def _squared_error(kernel: np.ndarray, terms: Terms) -> float:
    return float(np.sum(np.square(kernel - terms.compose()), dtype=np.float64))


def _sweep(taps: np.ndarray, terms: Terms) -> Terms:
    """Returns the terms after one proximal least squares step on each axis.

    Only two products with the kernel are needed: the one with `inputs` serves the
    outputs and both spatial axes.
    """
    height, width, inputs, outputs = terms.factors

    def patterns() -> np.ndarray:
        return (height[:, None] * width[None]).reshape(len(taps), -1)

    seen = np.sum((taps @ outputs) * patterns()[:, None], axis=0)
    inputs = _step(seen, inputs, (height, width, outputs))
    through = inputs.T @ taps
    seen = np.einsum("tro,tr->or", through, patterns())
    outputs = _step(seen, outputs, (height, width, inputs))
    field = np.einsum("tro,or->tr", through, outputs).reshape(len(height), len(width), -1)
    height = _step(np.sum(field * width, axis=1), height, (width, inputs, outputs))
    width = _step(np.sum(field * height[:, None], axis=0), width, (height, inputs, outputs))
    return Terms(height, width, inputs, outputs)


def _step(seen: np.ndarray, before: np.ndarray, others: tuple[np.ndarray, ...]) -> np.ndarray:
    """Returns (seen + before mu) (G + mu)^-1, G the Hadamard product of the others' Grams."""
    normal = np.prod([(f.T @ f).astype(np.float64) for f in others], axis=0)
    nearness = _PROXIMITY * np.diag(normal) + np.finfo(np.float64).tiny
    right = seen + before * nearness
    return np.linalg.solve(normal + np.diag(nearness), right.T).T.astype(before.dtype)
