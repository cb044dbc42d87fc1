"""Column-row sampling inside a graph: multiply only the heaviest pairs, chosen at every call.

A product X W is a sum over pairs of a column of X and a row of W. A call computes the norms
of X's columns, takes W's from a constant, and keeps the pairs whose product of norms is
largest (top-k), or draws them without replacement with probabilities in proportion to it:
the k largest of log(norm) plus Gumbel noise. Convolutions sample input channels (Eq. 8).
Kept pairs are not scaled. The noise is the same in every call, so results repeat.

References:
  Adelman and Silberstein, "Faster Neural Network Training with Approximate Tensor
  Operations", 2018, sections 3 and 4.
"""

import numpy as np
import tensorflow as tf

from tfapprox.decompositions.column_row import SampledStage
from tfapprox.rewriters.saved_model.emitter import Emitter, Factor


def emit_sampling(
    emitter: Emitter,
    x: str,
    factor: Factor,
    stage: SampledStage,
    axis: int,
    rank: int | None,
    rows: int,
    flipped: bool,
) -> tuple[str, Factor]:
    """Emits the choice of pairs and returns the columns and rows to multiply.

    Args:
      x: activations.
      factor: the kernel, in the activations' dtype.
      axis: where the activations keep their channels.
      rank: of the activations; may be None where axis is -1.
      rows: axis of the kernel that is summed over.
      flipped: the product is with the kernel's transpose, so that out is summed over.
    """
    channels = factor.shape[rows]
    squares = np.square(stage.kernel.astype(np.float64)).sum((0, 1, 2 if flipped else 3))
    weights = _column_squares(emitter, x, factor.dtype, axis, rank, channels)
    norms = emitter.constant(squares.astype(np.float32), "row_norms")
    weights = emitter.add("Mul", (weights, norms), "weights", T=tf.float32)
    if stage.drawn:
        weights = _perturbed(emitter, weights, channels, stage.seed)
    count = emitter.constant(np.array(stage.kept(channels), np.int32), "count")
    emitter.add("TopKV2", (weights, count), "heaviest", T=tf.float32, sorted=True)
    chosen = emitter.output(1)
    shape = list(factor.shape)
    shape[rows] = stage.kept(channels)
    kernel = _gather(emitter, factor.reference, chosen, rows, factor.dtype)
    columns = _gather(emitter, x, chosen, axis, factor.dtype)
    return columns, Factor(kernel, factor.dtype, tuple(shape))


def _column_squares(
    emitter: Emitter, x: str, dtype: int, axis: int, rank: int | None, channels: int
) -> str:
    """Emits the squared norms of the columns, in float32: half precision would overflow."""
    if tf.as_dtype(dtype) != tf.float32:
        x = emitter.add("Cast", (x,), "cast", SrcT=tf.as_dtype(dtype), DstT=tf.float32)
    x = emitter.add("Square", (x,), "squares", T=tf.float32)
    if rank is None:
        shape = emitter.constant(np.array([-1, channels], np.int32), "shape")
        x = emitter.add("Reshape", (x, shape), "rows", T=tf.float32, Tshape=tf.int32)
        axis, rank = 1, 2
    others = [i for i in range(rank) if i != axis % rank]
    axes = emitter.constant(np.array(others, np.int32), "axes")
    kinds = {"T": tf.float32, "Tidx": tf.int32, "keep_dims": False}
    return emitter.add("Sum", (x, axes), "column_norms", **kinds)


def _perturbed(emitter: Emitter, weights: str, channels: int, seed: int) -> str:
    """Emits log of the norms (half the log of their squares) plus Gumbel noise."""

    def unary(op: str, value: str) -> str:
        return emitter.add(op, (value,), op.lower(), T=tf.float32)

    half = emitter.constant(np.array(0.5, np.float32), "half")
    logs = emitter.add("Mul", (unary("Log", weights), half), "logs", T=tf.float32)
    shape = emitter.constant(np.array([channels], np.int32), "shape")
    seeds = emitter.constant(np.array([seed, channels], np.int32), "seed")
    kinds = {"dtype": tf.float32, "T": tf.int32, "Tseed": tf.int32}
    uniform = emitter.add("StatelessRandomUniform", (shape, seeds), "uniform", **kinds)
    noise = unary("Log", unary("Neg", unary("Log", uniform)))
    return emitter.add("Sub", (logs, noise), "perturbed", T=tf.float32)


def _gather(emitter: Emitter, x: str, chosen: str, axis: int, dtype: int) -> str:
    place = emitter.constant(np.array(axis, np.int32), "axis")
    kinds = {"Tparams": tf.as_dtype(dtype), "Tindices": tf.int32, "Taxis": tf.int32}
    return emitter.add("GatherV2", (x, chosen, place), "chosen", batch_dims=0, **kinds)
