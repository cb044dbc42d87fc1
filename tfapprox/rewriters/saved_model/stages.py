"""Writes a chain of stages as standard operations in the place of one node.

Everything emitted runs on a CPU in the C++ runtime and has gradients. Grouped stages
are split, multiplied and joined: TensorFlow's grouped Conv2D has no gradient on CPUs.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from tfapprox.accounting.factorization import Factorization
from tfapprox.decompositions.column_row import SampledStage
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.body import Body, attribute
from tfapprox.rewriters.saved_model.column_row import emit_sampling
from tfapprox.rewriters.saved_model.convolution_stages import ConvolutionStages
from tfapprox.rewriters.saved_model.einsum import EinsumProduct
from tfapprox.rewriters.saved_model.emitter import Emitter, Factor
from tfapprox.rewriters.saved_model.matching import Form, Match
from tfapprox.rewriters.saved_model.observing import ObservedStage, emit_observer
from tfapprox.rewriters.saved_model.product_stages import EinsumStages, MatMulStages
from tfapprox.rewriters.saved_model.stage_chains import UNSHIFTED
from tfapprox.rewriters.saved_model.stage_emitter import Place, StageEmitter


def emit_chain(
    emitter: Emitter,
    body: Body,
    node: node_def_pb2.NodeDef,
    match: Match,
    factorization: Factorization,
    factors: Sequence[Factor],
    flipped: bool,
) -> str:
    """Emits the stages in the place of `node` and returns the reference to the result."""
    chain = _FORMS[match.form](emitter, node, match)
    x = body.data_inputs(node)[1 - match.operand]
    links = list(zip(factorization.stages, factors, strict=True))
    order = factorization.output_order
    if flipped:
        links.reverse()
        x = chain.permute(x, None if order is None else np.argsort(order), first=True)
    offset = None
    if factorization.offset is not None and not flipped:
        value = factorization.offset.astype(tf.as_dtype(chain.dtype).as_numpy_dtype)
        offset = emitter.constant(value, "offset")
    last = len(links) - 1
    if node.op.startswith("_Fused") and (order is not None or links[-1][0].groups > 1):
        raise UserError(
            f"{node.name} is a fused operation: its last stage can't be grouped or "
            "reordered; choose another decomposition or --exclude it"
        )
    for index, (stage, factor) in enumerate(links):
        before = stage.input_order
        if not flipped:
            x = chain.permute(x, before, first=index == 0)
        factor = _in_dtype(emitter, factor, chain.dtype)
        place = Place(index == 0, index == last, len(links), flipped)
        if isinstance(stage, SampledStage):
            axis, rank = chain.axis(place.first), chain.rank()
            factor = chain.spread(factor)
            rows = chain.rows(factor, flipped)
            x, factor = emit_sampling(emitter, x, factor, stage, axis, rank, rows, flipped)
        if isinstance(stage, ObservedStage) and not flipped:
            axis = chain.axis(True)
            factor, added = emit_observer(emitter, x, factor, stage, node, match, axis)
            offset = added if stage.adds else None
        x = chain.stage(x, stage, factor, place)
        if flipped and before is not None:
            x = chain.permute(x, np.argsort(before), first=False)
    if not flipped and order is not None:
        x = chain.reorder(x, order, chain.output_axis())
    if offset is None:
        return emitter.finish()
    if body.is_function:
        # The last stage keeps the node's name, by which a chain is found again.
        return chain.add_offset(emitter.finish(), offset)
    # A main-graph node may be fetched by its name, so the sum has it.
    chain.add_offset(emitter.rename(UNSHIFTED), offset)
    return emitter.finish()


def takes_offset(node: node_def_pb2.NodeDef, match: Match) -> bool:
    """Says whether a vector can be added to the operation's output channels."""
    if node.op.startswith("_Fused"):
        return False  # its bias and activation come before
    if match.form != "einsum":
        return True
    return EinsumProduct.parse(attribute(node, "equation").s.decode(), match.operand).ends_in_free


def _in_dtype(emitter: Emitter, factor: Factor, dtype: int) -> Factor:
    if factor.dtype == dtype:
        return factor
    kinds = {"SrcT": tf.as_dtype(factor.dtype), "DstT": tf.as_dtype(dtype)}
    return Factor(emitter.add("Cast", (factor.reference,), "cast", **kinds), dtype, factor.shape)


_FORMS: dict[Form, type[StageEmitter]] = {
    "matmul": MatMulStages,
    "batch_matmul": MatMulStages,
    "einsum": EinsumStages,
    "conv2d": ConvolutionStages,
}
