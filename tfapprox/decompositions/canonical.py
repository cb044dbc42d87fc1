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
    """A kernel, or many alike, as sums of R outer products of a vector for each of four axes.

      W[..., h, w, i, o] = sum_r height[..., h, r] width[..., w, r] inputs[..., i, r]
                           outputs[..., o, r]

    Attributes:
      height, width, inputs, outputs: [..., H, R], [..., W, R], [..., I, R], [..., O, R].
    """

    height: np.ndarray
    width: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray

    @property
    def factors(self) -> tuple[np.ndarray, ...]:
        return self.height, self.width, self.inputs, self.outputs

    def leading(self, rank: int) -> "Terms":
        """Returns the sums of the first `rank` terms."""
        return Terms(*(factor[..., :rank] for factor in self.factors))

    def compose(self) -> np.ndarray:
        """Returns the kernels, [..., H, W, I, O]."""
        taps = self.height[..., :, None, :] * self.width[..., None, :, :]
        columns = taps[..., None, :] * self.inputs[..., None, None, :, :]
        batch, shape, rank = columns.shape[:-4], columns.shape[-4:-1], columns.shape[-1]
        composed = columns.reshape(*batch, -1, rank) @ self.outputs.swapaxes(-1, -2)
        return composed.reshape(*batch, *shape, -1)

    def balanced(self) -> "Terms":
        """Returns the same terms, each with equal norms on all axes."""
        norms = [np.linalg.norm(factor, axis=-2, keepdims=True) for factor in self.factors]
        level = np.prod(norms, axis=0) ** (1 / 4)
        scales = [level / np.where(norm > 0, norm, 1.0) for norm in norms]
        return Terms(*(f * scale for f, scale in zip(self.factors, scales, strict=True)))

    def sensitivity(self) -> np.ndarray:
        """Returns how much unit noise in the factors moves each kernel, on average, [...].

          sum_n I_n sum_r prod_{m != n} ||a_r^(m)||^2,

        the expected squared change of the kernel, to first order, for independent noise
        of variance 1 in every entry. Terms that nearly cancel have large norms and so a
        large sensitivity: rounding and the first steps of training then do great harm.

        References:
          Phan et al.: Stable Low-rank Tensor Decomposition for Compression of
          Convolutional Neural Network, 2020, Definition 1 and Lemma 1.
        """
        squares = [np.sum(np.square(f), axis=-2, dtype=np.float64) for f in self.factors]
        each = [
            factor.shape[-2] * np.prod(squares[:axis] + squares[axis + 1 :], axis=0)
            for axis, factor in enumerate(self.factors)
        ]
        return np.sum(each, axis=(0, -1))


def orthogonal_terms(kernel: np.ndarray, rank: int) -> Terms:
    """Returns the `rank` largest of H W min(I, O) orthogonal terms that add up to the kernel.

    The singular vectors of the height and of the width axis give H W patterns; the
    kernel seen through each is a matrix I x O with an SVD of its own. All terms
    together are the kernel, and they are orthogonal: leaving some out costs exactly
    their own energy, and none can cancel another. They come the largest first.

    Args:
      kernel: [..., H, W, I, O], float32 or float64; each by itself.
      rank: from 1 to H W min(I, O).
    """
    *batch, height, width, in_channels, out_channels = kernel.shape
    rows = _basis(kernel.reshape(*batch, height, -1))
    columns = _basis(kernel.swapaxes(-4, -3).reshape(*batch, width, -1))
    slices = np.einsum("...ha,...wb,...hwio->...abio", rows, columns, kernel, optimize=True)
    left, values, right = np.linalg.svd(slices, full_matrices=False)
    flat = values.reshape(*batch, -1)
    largest = np.argsort(-flat, axis=-1, kind="stable")[..., :rank]
    a, b, _ = np.unravel_index(largest, values.shape[-3:])
    left = np.moveaxis(left, -2, -4).reshape(*batch, in_channels, -1)
    right = right.reshape(*batch, -1, out_channels).swapaxes(-1, -2)
    chosen = [(rows, a), (columns, b), (left, largest), (right, largest)]
    factors = [np.take_along_axis(f, place[..., None, :], axis=-1) for f, place in chosen]
    factors[2] = factors[2] * np.take_along_axis(flat, largest, axis=-1)[..., None, :]
    return Terms(*factors).balanced()


def _basis(matrix: np.ndarray) -> np.ndarray:
    """Returns all left singular vectors of matrices with few rows, the largest first."""
    return np.linalg.eigh(gram(matrix))[1][..., ::-1].astype(matrix.dtype)


def fit_terms(kernel: np.ndarray, start: Terms, growth: float, gain: float = 1e-3) -> Terms:
    """Returns terms with at most the start's error, by proximal alternating least squares.

    Each axis in turn minimises ||W - W_hat||_F^2 + sum_r mu_r ||a_r - a_r_before||^2,
    so the error never rises and an exact start stays exact. Sweeps end when one gains
    too little, when a large kernel has had its share of work, or before one would leave
    a sensitivity above `growth` times the start's: plain ALS then goes on to gain
    little by terms that grow and cancel.

    Args:
      kernel: [..., H, W, I, O], float32 or float64; many are fitted side by side, each
        until its own sweeps end.
      start: the terms to begin with.
      growth: at least 1.
      gain: sweeps end when the squared error falls by less than this share of itself.

    References:
      Phan et al. 2020, Section 3, where the sensitivity is minimised at a bounded error;
      we minimise the error at a bounded sensitivity. Lebedev et al.: Speeding-up
      Convolutional Neural Networks Using Fine-tuned CP-Decomposition, 2015, Section 3.
    """
    kernels = kernel.reshape(-1, *kernel.shape[-4:])
    best = [factor.reshape(-1, *factor.shape[-2:]).copy() for factor in start.factors]
    bound = growth * Terms(*best).sensitivity()
    least = 1e-12 * _energy(kernels)
    lost = _squared_error(kernels, Terms(*best))
    rank = start.inputs.shape[-1]
    cost_of_one = 3 * kernels.size * rank + 2 * len(kernels) * rank**3
    going = np.arange(len(kernels))
    for _ in range(max(2, min(_SWEEPS, int(_WORK / cost_of_one)))):
        rest = kernels[going] if len(going) < len(kernels) else kernels
        terms = _sweep(rest, Terms(*(factor[going] for factor in best))).balanced()
        before, after = lost[going], _squared_error(rest, terms)
        better = (terms.sensitivity() <= bound[going]) & (after <= before)
        for factor, fitted in zip(best, terms.factors, strict=True):
            factor[going[better]] = fitted[better]
        lost[going[better]] = after[better]
        worth_it = (before - after > gain * before) & (after > least[going])
        going = going[better & worth_it]
        if not len(going):
            break
    return Terms(*(f.reshape(old.shape) for f, old in zip(best, start.factors, strict=True)))


def _squared_error(kernels: np.ndarray, terms: Terms) -> np.ndarray:
    """Returns ||W - W_hat||_F^2 of every kernel, [n]."""
    return _energy(kernels - terms.compose())


def _energy(kernels: np.ndarray) -> np.ndarray:
    return np.square(kernels).sum(axis=(1, 2, 3, 4), dtype=np.float64)


def _sweep(kernels: np.ndarray, terms: Terms) -> Terms:
    """Returns the terms after one proximal least squares step on each axis.

    Only two products with the kernels [n, H, W, I, O] are needed: the one with `inputs`
    serves the outputs and both spatial axes.
    """
    count, tall, wide, in_channels, out_channels = kernels.shape
    height, width, inputs, outputs = terms.factors
    rank = inputs.shape[-1]
    taps = kernels.reshape(count, -1, in_channels, out_channels)
    patterns = (height[:, :, None] * width[:, None]).reshape(count, -1, rank)
    products = [factor.swapaxes(1, 2) @ factor for factor in terms.factors]

    def step(axis: int, seen: np.ndarray, before: np.ndarray) -> np.ndarray:
        after = _step(seen, before, products[:axis] + products[axis + 1 :])
        products[axis] = after.swapaxes(1, 2) @ after
        return after

    through = (kernels.reshape(count, -1, out_channels) @ outputs).reshape(*taps.shape[:3], rank)
    inputs = step(2, np.einsum("ntir,ntr->nir", through, patterns).swapaxes(1, 2), inputs)
    across = taps.swapaxes(1, 2).reshape(count, in_channels, -1)
    through = (inputs.swapaxes(1, 2) @ across).reshape(count, rank, -1, out_channels)
    outputs = step(3, np.einsum("nrto,ntr->nro", through, patterns), outputs)
    field = np.einsum("nrto,nro->nrt", through, outputs.swapaxes(1, 2))
    field = field.reshape(count, rank, tall, wide)
    height = step(0, np.einsum("nrhw,nwr->nrh", field, width), height)
    width = step(1, np.einsum("nrhw,nhr->nrw", field, height), width)
    return Terms(height, width, inputs, outputs)


def _step(seen: np.ndarray, before: np.ndarray, products: list[np.ndarray]) -> np.ndarray:
    """Returns (seen' + before mu) (G + mu)^-1, G the Hadamard product of the others' Grams.

    Args:
      seen: the kernel through the other axes' factors, [n, R, size].
      before: the factor, [n, size, R].
      products: F^T F of the other axes' factors, [n, R, R] each.
    """
    normal = products[0].astype(np.float64)
    for product in products[1:]:
        normal *= product
    terms = np.arange(normal.shape[1])
    nearness = _PROXIMITY * normal[:, terms, terms] + np.finfo(np.float64).tiny
    normal[:, terms, terms] += nearness
    right = seen + before.swapaxes(1, 2) * nearness[..., None]
    return np.linalg.solve(normal, right).swapaxes(1, 2).astype(before.dtype)
