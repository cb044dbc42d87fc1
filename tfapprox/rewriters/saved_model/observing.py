"""A stage that shows its input to this process and takes its kernel from there.

The graph calls Python in the place where it would read the kernel: so it can only run in
this process, and serves to calibrate. What is handed over is brought into one layout,
[N, height, width, channels], whatever the operation's own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from tfapprox.accounting.factorization import Stage
from tfapprox.accounting.geometry import Geometry
from tfapprox.rewriters.saved_model.body import attribute
from tfapprox.rewriters.saved_model.einsum import EinsumProduct
from tfapprox.rewriters.saved_model.emitter import Emitter, Factor
from tfapprox.rewriters.saved_model.matching import Match, conv_geometry

Watch = Callable[[str, str, np.ndarray, Geometry], tuple[np.ndarray, np.ndarray]]
"""Takes site, use, input [N, height, width, I] and where the taps fall; returns the kernel
[H, W, I, O] to go on with, and what to add to the output, [O]."""


@dataclasses.dataclass(frozen=True, eq=False)
class ObservedStage(Stage):
    """A dense kernel whose input is watched.

    Attributes:
      site: its name.
      watch: called for every execution.
      adds: whether what `watch` says is added to the output.
      alive: keeps the Python functions that the graph names.
    """

    site: str = ""
    watch: Watch | None = None
    adds: bool = True
    alive: list = dataclasses.field(default_factory=list)


def emit_observer(
    emitter: Emitter,
    x: str,
    factor: Factor,
    stage: ObservedStage,
    node: node_def_pb2.NodeDef,
    match: Match,
    axis: int,
) -> tuple[Factor, str]:
    """Emits the call of Python and returns the kernel and the offset it gave.

    Args:
      x: input of the product.
      factor: the stored kernel, whose dtype and shape the answer has.
      axis: where a matrix product's input keeps its channels.
    """
    view = _view_of(node, match, axis)
    use = f"{stage.site}#{len(stage.alive)}"
    dtype = tf.as_dtype(factor.dtype)
    watch = stage.watch
    assert watch is not None

    def observe(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kernel, offset = watch(stage.site, use, *view(value))
        shaped = np.ascontiguousarray(kernel.reshape(factor.shape), dtype.as_numpy_dtype)
        return shaped, offset.astype(dtype.as_numpy_dtype)

    graph = tf.Graph()
    with graph.as_default():
        tf.numpy_function(observe, [tf.compat.v1.placeholder(dtype)], [dtype, dtype])
    stage.alive.append(graph)
    template = next(n for n in graph.as_graph_def().node if n.op == "PyFunc")
    called = emitter.add("PyFunc", (x,), "observer")
    for key, value in template.attr.items():
        emitter.nodes[-1].attr[key].CopyFrom(value)
    references = emitter.outputs(called, 2)
    shapes = (factor.shape, (factor.shape[-1],))
    known = [_with_shape(emitter, r, dtype, s) for r, s in zip(references, shapes, strict=True)]
    return dataclasses.replace(factor, reference=known[0]), known[1]


def _with_shape(emitter: Emitter, x: str, dtype: tf.DType, shape: tuple[int, ...]) -> str:
    made = emitter.add("EnsureShape", (x,), "shaped", T=dtype)
    emitter.nodes[-1].attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return made


def _view_of(
    node: node_def_pb2.NodeDef, match: Match, axis: int
) -> Callable[[np.ndarray], tuple[np.ndarray, Geometry]]:
    """Returns a function from an input as the operation takes it to the common layout."""
    if match.form == "conv2d":
        geometry = conv_geometry(node, (1, 1))
        channels_first = attribute(node, "data_format").s == b"NCHW"
        return lambda x: (x.transpose(0, 2, 3, 1) if channels_first else x, geometry)
    if match.form != "einsum":
        return lambda x: (_as_rows(np.moveaxis(x, axis, -1), 1), Geometry())
    product = EinsumProduct.parse(attribute(node, "equation").s.decode(), match.operand)

    def view(x: np.ndarray) -> tuple[np.ndarray, Any]:
        axes = [_axis_of(product.x, label, x.ndim) for label in product.contracted]
        others = [i for i in range(x.ndim) if i not in axes]
        return _as_rows(x.transpose(*others, *axes), len(axes)), Geometry()

    return view


def _axis_of(labels: str, label: str, ndim: int) -> int:
    before, _, after = labels.partition("...")
    return before.index(label) if label in before else ndim - len(after) + after.index(label)


def _as_rows(x: np.ndarray, channel_axes: int) -> np.ndarray:
    """Returns [n, 1, 1, D] with the last axes taken together."""
    channels = int(np.prod(x.shape[x.ndim - channel_axes :]))
    return x.reshape(-1, 1, 1, channels)
