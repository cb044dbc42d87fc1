"""Times a site's dense operation and chains of stages: the part in a process of its own.

`python -m tfapprox.serving.site_timing FILE` reads jobs from FILE and prints one line of
JSON for each that is done. The stages are laid out by the very code that writes them
into a SavedModel, their kernels are variables as there, and TensorFlow's graph
optimizers see them as there.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from tfapprox.accounting.factorization import Factorization
from tfapprox.rewriters.provenance import Static
from tfapprox.rewriters.saved_model_body import Body
from tfapprox.rewriters.saved_model_matching import Match
from tfapprox.rewriters.saved_model_stages import Emitter, Factor, emit_chain
from tfapprox.serving.latency import TimingOptions, time_interleaved
from tfapprox.serving.workload import ChainForm, Workload, input_shape

_SIDE_BY_SIDE = 8  # chains timed in turns with the dense operation; more would thin out a round


def time_job(
    workload: Workload,
    chains: Sequence[ChainForm],
    options: TimingOptions,
    threads: int | None = None,
) -> dict:
    """Returns the dense operation's nanoseconds and each chain's (ratio, noise).

    What it costs to call anything at all is measured too and taken off both, so the
    ratio is that of the operations alone. The ratio is the median over rounds, its
    noise the half-width of the notch of a box plot.

    References:
      McGill, Tukey and Larsen: Variations of Box Plots, 1978 (1.57 IQR / sqrt(n)).
    """
    pools = {"intra_op_parallelism_threads": threads, "inter_op_parallelism_threads": threads}
    config = tf.compat.v1.ConfigProto(**({} if threads is None else pools))
    dense, times = [], []
    for start in range(0, max(1, len(chains)), _SIDE_BY_SIDE):
        with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
            calls = _callables(session, workload, chains[start : start + _SIDE_BY_SIDE])
            seconds = time_interleaved(calls, options)
        net = np.maximum(seconds[:, 1:] - np.median(seconds[:, 0]), 1e-8)
        dense.append(float(np.median(net[:, 0])))
        ratios = net[:, 1:] / net[:, :1]
        low, middle, high = np.percentile(ratios, [25, 50, 75], axis=0)
        noise = 1.57 * (high - low) / np.sqrt(len(ratios))
        times += zip(middle.tolist(), noise.tolist(), strict=True)
    return {"dense": 1e9 * float(np.median(dense)), "chains": times}


def _callables(
    session: tf.compat.v1.Session, workload: Workload, chains: Sequence[ChainForm]
) -> list[Callable[[], object]]:
    """Returns a call that does nothing but read the input, the dense one, and the chains'."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal(input_shape(workload), np.float32)
    x = _variable(session, values.astype(workload.dtype), "x")
    kernel = generator.standard_normal(workload.kernel, np.float32) / np.sqrt(workload.kernel[2])
    kernel = _stored(kernel.astype(workload.dtype), workload)
    fetched = [x.op, _import(session, _dense_graph(workload), x, [kernel], "dense")]
    for index, chain in enumerate(chains):
        built = chain.fill(workload.dtype, generator)
        graph = chain_graph(workload, built)
        kernels = [_stored(stage.kernel, workload) for stage in built.stages]
        fetched.append(_import(session, graph, x, kernels, f"chain{index}"))
    return [session.make_callable(operation) for operation in fetched]


def _stored(kernel: np.ndarray, workload: Workload) -> np.ndarray:
    return kernel[0, 0] if workload.geometry is None else kernel


def _variable(session: tf.compat.v1.Session, value: np.ndarray, name: str) -> tf.Tensor:
    """Returns a read of a variable that holds `value`, which stays out of the graph."""
    source = tf.compat.v1.placeholder(value.dtype, value.shape)
    handle = tf.raw_ops.VarHandleOp(dtype=value.dtype, shape=value.shape, shared_name=name)
    session.run(tf.raw_ops.AssignVariableOp(resource=handle, value=source), {source: value})
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=value.dtype)


def _import(
    session: tf.compat.v1.Session,
    graph: graph_pb2.GraphDef,
    x: tf.Tensor,
    kernels: Sequence[np.ndarray],
    name: str,
) -> tf.Operation:
    feeds = {"x:0": x}
    for index, kernel in enumerate(kernels):
        feeds[f"kernel{index}:0"] = _variable(session, kernel, f"{name}_{index}")
    (operation,) = tf.import_graph_def(graph, feeds, ["site"], name=name)
    return operation


def _dense_graph(workload: Workload) -> graph_pb2.GraphDef:
    graph = graph_pb2.GraphDef()
    dtype = tf.as_dtype(workload.dtype).as_datatype_enum
    for name in ("x", "kernel0"):
        graph.node.add(name=name, op="Placeholder").attr["dtype"].type = dtype
    graph.node.append(_dense_node(workload))
    return graph


def _dense_node(workload: Workload) -> node_def_pb2.NodeDef:
    node = node_def_pb2.NodeDef(name="site", input=["x", "kernel0"])
    node.attr["T"].type = tf.as_dtype(workload.dtype).as_datatype_enum
    placed = workload.geometry
    if placed is None:
        node.op = "MatMul"
        node.attr["transpose_a"].b = node.attr["transpose_b"].b = False
        return node
    node.op = "Conv2D"
    node.attr["data_format"].s = b"NHWC"
    node.attr["strides"].list.i.extend([1, *placed.strides, 1])
    node.attr["dilations"].list.i.extend([1, *placed.dilations, 1])
    explicit = not isinstance(placed.padding, str)
    node.attr["padding"].s = b"EXPLICIT" if explicit else placed.padding.encode()
    if explicit:
        pads = [0, 0, *placed.padding[0], *placed.padding[1], 0, 0]
        node.attr["explicit_paddings"].list.i.extend(int(n) for n in pads)
    return node


def chain_graph(workload: Workload, factorization: Factorization) -> graph_pb2.GraphDef:
    """Returns placeholders x, kernel0, kernel1, ... and the chain, whose last node is "site"."""
    graph = _dense_graph(workload)
    node = graph.node.pop()
    dtype = tf.as_dtype(workload.dtype).as_datatype_enum
    factors = []
    for index, stage in enumerate(factorization.stages):
        name, kernel = f"kernel{index}", _stored(stage.kernel, workload)
        factors.append(Factor(name, dtype, kernel.shape))
        if index:
            graph.node.add(name=name, op="Placeholder").attr["dtype"].type = dtype
    body = Body(graph)
    emitter = Emitter(body, node, {n.name for n in graph.node})
    conv = workload.geometry is not None
    shape = workload.kernel if conv else workload.kernel[2:]
    placeholder = np.broadcast_to(np.zeros((), workload.dtype), shape)  # only its shape is read
    source = Static("Const", (), frozenset(), lambda _: placeholder)
    match = Match("conv2d", "conv2d", 1, source, placeholder) if conv else Match(
        "matmul", "dense", 1, source, placeholder[None, None]
    )  # fmt: skip
    emit_chain(emitter, body, node, match, factorization, factors, flipped=False)
    graph.node.extend(emitter.nodes)
    return graph


def _main(path: str) -> None:
    with open(path) as file:
        request: Mapping[str, Any] = json.load(file)
    options = TimingOptions(**request["options"])
    for job in request["jobs"]:
        chains = [ChainForm.from_json(chain) for chain in job["chains"]]
        workload = Workload.from_json(job["workload"])
        answer = time_job(workload, chains, options, request["threads"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
