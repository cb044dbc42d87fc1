"""Puts a replaced variable together again where something beside products reads it.

Functions that no signature runs, such as the regularisation losses that Keras saves
with a model, may read a kernel as a whole. They get the product of the factors.
"""

from collections.abc import Callable, Collection, Sequence

import ml_dtypes
import numpy as np
import tensorflow as tf

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.rewriters.saved_model.emitter import Emitter, Factor
from tfapprox.rewriters.saved_model.provenance import Static
from tfapprox.rewriters.saved_model.provenance_ops import Unevaluable


def layout_in(kernel: np.ndarray, variable: np.ndarray) -> str:
    """Says how a kernel [h, w, i, o] lies in its variable's memory.

    Returns:
      "plain" if the variable's entries are the kernel's in order, "flipped" if in the
      order of [h, w, o, i], "" if the kernel is a part of it or scattered.
    """
    same = kernel.__array_interface__["data"][0] == variable.__array_interface__["data"][0]
    if not same or kernel.size != variable.size or not variable.flags.c_contiguous:
        return ""
    if kernel.flags.c_contiguous:
        return "plain"
    return "flipped" if kernel.swapaxes(2, 3).flags.c_contiguous else ""


def layout_of(kernel: np.ndarray, variable: np.ndarray) -> str:
    """Says how a kernel lies in a tensor, which may be a copy that was composed elsewhere.

    Returns:
      See `layout_in`.
    """
    found = layout_in(kernel, variable)
    if found or kernel.size != variable.size or kernel.dtype != variable.dtype:
        return found
    for layout, view in (("plain", kernel), ("flipped", kernel.swapaxes(2, 3))):
        if _nearly_equal(view.reshape(variable.shape), variable):
            return layout
    return ""


def _nearly_equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Says whether only rounding on the way of a product sets two tensors apart."""
    limit = 100 * float(ml_dtypes.finfo(b.dtype).eps)
    scale = np.abs(b.astype(np.float64)).max(initial=0.0)
    return bool(np.abs(a.astype(np.float64) - b).max(initial=0.0) <= limit * scale)


def is_composition(kernel: np.ndarray, roots: Collection[str], value: Static) -> bool:
    """Says whether a value computed in the graph is the kernel, put together from its factors.

    Args:
      kernel: [h, w, i, o].
      roots: of the kernel.
      value: of any shape.
    """
    if value.op != "Reshape" or value.roots != roots or len(roots) < 2:
        return False
    try:
        return bool(layout_of(kernel, value.value()))
    except Unevaluable:
        return False


def is_composable(kernel: np.ndarray, read: Callable[[], np.ndarray]) -> bool:
    """Says whether the variable can be had back from its kernel.

    Args:
      kernel: [h, w, i, o].
      read: gives the variable's value.
    """
    try:
        return bool(layout_in(kernel, read()))
    except Unevaluable:
        return False


def emit_composition(
    emitter: Emitter,
    factorization: Factorization,
    factors: list[Factor],
    layout: str,
    shape: tuple[int, ...],
) -> str:
    """Emits nodes that compute the variable from the factors; returns the reference.

    Args:
      factors: the stages' kernels, as stored.
      layout: see `layout_in`.
      shape: of the variable.
    """
    dtype = tf.as_dtype(factors[0].dtype)
    first = factorization.stages[0]
    channels = first.kernel.shape[2] * first.groups
    links = list(zip(factorization.stages, factors, strict=True))
    if first.groups == 1 and first.input_order is None:
        composed = _reshape(emitter, factors[0].reference, first.kernel.shape, dtype)
        taps = first.kernel.shape[:2]
        del links[0]
    else:
        identity = np.eye(channels, dtype=dtype.as_numpy_dtype)[None, None]
        composed, taps = emitter.constant(identity, "identity"), (1, 1)
    for stage, factor in links:
        composed = _apply(emitter, composed, taps, stage, factor, channels)
        taps = (taps[0] * stage.kernel.shape[0], taps[1] * stage.kernel.shape[1])
    if factorization.output_order is not None:
        composed = _take(emitter, composed, factorization.output_order, dtype)
    if layout == "flipped":
        order = emitter.constant(np.array([0, 1, 3, 2], np.int32), "order")
        composed = emitter.add("Transpose", (composed, order), "flip", T=dtype, Tperm=tf.int32)
    _reshape(emitter, composed, shape, dtype)
    return emitter.finish()


def _apply(
    emitter: Emitter,
    composed: str,
    taps: tuple[int, int],
    stage: Stage,
    factor: Factor,
    channels: int,
) -> str:
    """Emits `Stage.after` for a composed kernel of `taps` and `channels` inputs."""
    dtype = tf.as_dtype(factor.dtype)
    if stage.input_order is not None:
        composed = _take(emitter, composed, stage.input_order, dtype)
    kernel = _reshape(emitter, factor.reference, stage.kernel.shape, dtype)
    lefts = _split(emitter, composed, stage.groups, dtype)
    rights = _split(emitter, kernel, stage.groups, dtype)
    height, width, _, out_channels = stage.kernel.shape
    shape = (taps[0] * height, taps[1] * width, channels, out_channels // stage.groups)
    parts = []
    for left, right in zip(lefts, rights, strict=True):
        equation = b"hwir,xyro->hxwyio"
        product = emitter.add("Einsum", (left, right), "compose", N=2, T=dtype, equation=equation)
        parts.append(_reshape(emitter, product, shape, dtype))
    if len(parts) == 1:
        return parts[0]
    axis = emitter.constant(np.array(3, np.int32), "axis")
    return emitter.add("ConcatV2", (*parts, axis), "join", N=len(parts), T=dtype, Tidx=tf.int32)


def _split(emitter: Emitter, reference: str, parts: int, dtype: tf.DType) -> list[str]:
    if parts == 1:
        return [reference]
    axis = emitter.constant(np.array(3, np.int32), "axis")
    made = emitter.add("Split", (axis, reference), "split", num_split=parts, T=dtype)
    return emitter.outputs(made, parts)


def _take(emitter: Emitter, reference: str, order: np.ndarray, dtype: tf.DType) -> str:
    indices = emitter.constant(np.asarray(order, np.int32), "order")
    axis = emitter.constant(np.array(3, np.int32), "axis")
    kinds = {"Tparams": dtype, "Tindices": tf.int32, "Taxis": tf.int32}
    return emitter.add("GatherV2", (reference, indices, axis), "reorder", batch_dims=0, **kinds)


def _reshape(emitter: Emitter, reference: str, shape: Sequence[int], dtype: tf.DType) -> str:
    target = emitter.constant(np.array(shape, np.int32), "shape")
    return emitter.add("Reshape", (reference, target), "reshape", T=dtype, Tshape=tf.int32)
