"""Kernels that are computed in the graph, from codes and a slice generator.

Python computes such a kernel wherever it is used, so that gradients reach codes and generator.
The main graph, which servers run, has it in a variable that the restoring operation fills
once from the checkpoint: there it costs no time after loading.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.decompositions.generated import GeneratedStage
from tfapprox.decompositions.slice_generator import SliceShape
from tfapprox.rewriters.saved_model.emitter import Emitter, Factor
from tfapprox.rewriters.saved_model.provenance import Static

GENERATOR = "slice_generator"
"""Name of a variable that several kernels are generated from; it names none of them."""


def materialised(
    emitter: Emitter,
    factorization: Factorization,
    factors: Sequence[Factor],
    shape: tuple[int, ...],
) -> tuple[Factorization, list[Factor]]:
    """Emits the kernel of a generated stage; other factorizations pass as they are.

    Args:
      factors: codes and generator, or the stages' kernels.
      shape: of the kernel as it would be stored.
    """
    (*_, stage) = factorization.stages
    if not isinstance(stage, GeneratedStage):
        return factorization, list(factors)
    codes, generator = factors
    made = emit_kernel(emitter, codes, generator, stage.kernel.shape, shape)
    return Factorization((Stage(stage.kernel),)), [Factor(made, codes.dtype, shape)]


def emit_kernel(
    emitter: Emitter,
    codes: Factor,
    generator: Factor,
    kernel_shape: Sequence[int],
    shape: Sequence[int],
) -> str:
    """Emits the product and the assembly of slices; returns the reference.

    Args:
      kernel_shape: [height, width, in, out].
      shape: of the result, of as many entries.
    """
    dtype = tf.as_dtype(codes.dtype)
    size, *steps = generator.shape
    height, width, in_channels, out_channels = steps
    slices = SliceShape(out_channels, in_channels, height, width)
    grid = slices.grid(kernel_shape)
    padded = [n * step for n, step in zip(grid, steps, strict=True)]
    basis = generator.reference
    if generator.dtype != codes.dtype:
        kinds = {"SrcT": tf.as_dtype(generator.dtype), "DstT": dtype}
        basis = emitter.add("Cast", (basis,), "generated", **kinds)
    basis = _reshape(emitter, basis, [size, slices.size], dtype)
    made = emitter.add("MatMul", (codes.reference, basis), "generated", T=dtype)
    made = _reshape(emitter, made, [*grid, *steps], dtype)
    order = emitter.constant(np.array([0, 4, 1, 5, 2, 6, 3, 7], np.int32), "order")
    kinds = {"T": dtype, "Tperm": tf.int32}
    made = emitter.add("Transpose", (made, order), "generated", **kinds)
    made = _reshape(emitter, made, padded, dtype)
    if padded != list(kernel_shape):
        begin = emitter.constant(np.zeros(4, np.int32), "begin")
        end = emitter.constant(np.array(kernel_shape, np.int32), "size")
        kinds = {"T": dtype, "Index": tf.int32}
        made = emitter.add("Slice", (made, begin, end), "generated", **kinds)
    if list(shape) != list(kernel_shape):
        made = _reshape(emitter, made, shape, dtype)
    return made


def _reshape(emitter: Emitter, reference: str, shape: Sequence[int], dtype: tf.DType) -> str:
    target = emitter.constant(np.array(shape, np.int32), "shape")
    kinds = {"T": dtype, "Tshape": tf.int32}
    return emitter.add("Reshape", (reference, target), "generated", **kinds)


def codes_of(kernel: Static) -> Static | None:
    """Returns the codes of a kernel that `emit_kernel` made, None for other kernels."""
    made = kernel
    while made.op in ("Reshape", "Slice"):
        made = made.inputs[0]
    if made.op != "Transpose" or made.inputs[0].op != "Reshape":
        return None
    product = made.inputs[0].inputs[0]
    if product.op != "MatMul":
        return None
    codes, basis = product.inputs
    generator = basis.inputs[0] if basis.op == "Reshape" else basis
    leaves = ("Variable", "Const")
    return codes if codes.op in leaves and generator.op in leaves else None
