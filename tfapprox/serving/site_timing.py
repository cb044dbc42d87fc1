"""Times a site's dense operation and chains of stages: the part in a process of its own.

`python -m tfapprox.serving.site_timing FOLDER` reads request.json there and prints one
line of JSON for each job that is done. Two kinds of request are known: "jobs" (chains
against the dense operation) and "model" (a model's dense operations against the whole).
The stages are laid out by the very code that writes them into a SavedModel, their
kernels are variables as there, and TensorFlow's graph optimizers see them as there.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from tfapprox.accounting.factorization import Factorization
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.body import Body
from tfapprox.rewriters.saved_model.emitter import Emitter, Factor
from tfapprox.rewriters.saved_model.matching import Match
from tfapprox.rewriters.saved_model.provenance import Static
from tfapprox.rewriters.saved_model.stages import emit_chain
from tfapprox.serving.benchmark import LatencyRequest, load_one
from tfapprox.serving.latency import TimingOptions, time_interleaved
from tfapprox.serving.workload import ChainForm, Workload, input_shape

_SIDE_BY_SIDE = 8  # chains timed in turns with the dense operation; more would thin out a round
_LEAST_SECONDS = 1e-8  # what is timed below the cost of a call


def time_chains(
    workload: Workload,
    chains: Sequence[ChainForm],
    options: TimingOptions,
    threads: int | None = None,
) -> list[tuple[float, float]]:
    """Returns each chain's time in times of the dense operation's: (ratio, noise).

    What it costs to call anything at all is measured too and taken off both, so the
    ratio is that of the operations alone. The ratio is the median over rounds, each
    of which runs all of them, and so hardly depends on what else the machine does; its
    noise is the half-width of the notch of a box plot.

    References:
      McGill, Tukey and Larsen: Variations of Box Plots, 1978 (1.57 IQR / sqrt(n)).
    """
    times: list[tuple[float, float]] = []
    for start in range(0, len(chains), _SIDE_BY_SIDE):
        with tf.Graph().as_default(), _session(threads) as session:
            x = _input(session, workload)
            calls = [x.op, _dense(session, workload, x, "dense")]
            calls += _chains(session, workload, chains[start : start + _SIDE_BY_SIDE], x)
            seconds = time_interleaved([session.make_callable(call) for call in calls], options)
        net = np.maximum(seconds[:, 1:] - np.median(seconds[:, 0]), _LEAST_SECONDS)
        ratios = net[:, 1:] / net[:, :1]
        low, middle, high = np.percentile(ratios, [25, 50, 75], axis=0)
        noise = 1.57 * (high - low) / np.sqrt(len(ratios))
        times += zip(middle.tolist(), noise.tolist(), strict=True)
    return times


def time_shares(
    run: Callable[[], object],
    workloads: Sequence[Workload],
    options: TimingOptions,
    threads: int | None = None,
) -> dict:
    """Returns a model's nanoseconds, and those of dense operations in turns with it.

    An operation's time is its mean's share of the model's mean, times the model's
    median. Means, because they add up: where a machine is busy with other things, a
    long call is always interrupted and a short one rarely, so that medians of the
    parts come to far less than the median of the whole.
    """
    with tf.Graph().as_default(), _session(threads) as session:
        calls = []
        for index, workload in enumerate(workloads):
            x = _input(session, workload, f"x{index}")
            calls += [x.op, _dense(session, workload, x, f"dense{index}")]
        runnables = [run, *(session.make_callable(call) for call in calls)]
        seconds = time_interleaved(runnables, options)
    whole, mean = 1e9 * float(np.median(seconds[:, 0])), np.mean(seconds, axis=0)
    net = np.maximum(mean[2::2] - mean[1::2], _LEAST_SECONDS)
    return {"model": whole, "dense": (whole * net / mean[0]).tolist()}


def _session(threads: int | None) -> tf.compat.v1.Session:
    pools = {"intra_op_parallelism_threads": threads, "inter_op_parallelism_threads": threads}
    return tf.compat.v1.Session(
        config=tf.compat.v1.ConfigProto(**({} if threads is None else pools))
    )


def _input(session: tf.compat.v1.Session, workload: Workload, name: str = "x") -> tf.Tensor:
    values = np.random.default_rng(0).standard_normal(input_shape(workload), np.float32)
    return _variable(session, values.astype(workload.dtype), name)


def _dense(
    session: tf.compat.v1.Session, workload: Workload, x: tf.Tensor, name: str
) -> tf.Operation:
    kernel = np.random.default_rng(1).standard_normal(workload.kernel, np.float32)
    kernel = (kernel / np.sqrt(workload.kernel[2])).astype(workload.dtype)
    return _import(session, _dense_graph(workload), x, [_stored(kernel, workload)], name)


def _chains(
    session: tf.compat.v1.Session, workload: Workload, chains: Sequence[ChainForm], x: tf.Tensor
) -> list[tf.Operation]:
    generator, operations = np.random.default_rng(2), []
    for index, chain in enumerate(chains):
        built = chain.fill(workload.dtype, generator)
        kernels = [_stored(stage.kernel, workload) for stage in built.stages]
        graph = chain_graph(workload, built)
        operations.append(_import(session, graph, x, kernels, f"chain{index}"))
    return operations


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
    if isinstance(placed.padding, str):
        node.attr["padding"].s = placed.padding.encode()
    else:
        node.attr["padding"].s = b"EXPLICIT"
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


def _main(folder: str) -> None:
    with open(os.path.join(folder, "request.json")) as file:
        request: Mapping[str, Any] = json.load(file)
    options, threads = TimingOptions(**request["options"]), request["threads"]
    for job in request.get("jobs", ()):
        chains = [ChainForm.from_json(chain) for chain in job["chains"]]
        workload = Workload.from_json(job["workload"])
        print(json.dumps({"chains": time_chains(workload, chains, options, threads)}), flush=True)
    if "model" in request:
        print(json.dumps(_time_model(folder, request, options)), flush=True)


def _time_model(folder: str, request: Mapping[str, Any], options: TimingOptions) -> dict:
    model = LatencyRequest.from_json(request["model"])
    try:
        with contextlib.ExitStack() as stack:
            run = load_one(model, os.path.join(folder, "inputs.npz"), stack)
            known = [Workload.from_json(workload) for workload in request["workloads"]]
            return time_shares(run, known, options, model.threads)
    except UserError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    _main(sys.argv[1])
