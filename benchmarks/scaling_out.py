"""Bytes between data-parallel workers, exact against sampled and slice-generated training.

Two workers on this machine reduce their gradients by MultiWorkerMirroredStrategy; what they
send is read off the loopback interface, step by step. Exact training reduces every gradient
whole. With selection by weight norms all replicas choose the same rows of a kernel, so only
those travel; slice-generated convolutions send codes and the generator instead of kernels.

Rows for 4 and more workers are computed, not measured: a ring all-reduce of B bytes over N
workers takes 2 (N - 1) / N of B from each of them, at --bandwidth, and nothing overlaps it;
each worker computes as long as it was measured to without any reduction.

  python -m benchmarks.scaling_out
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import make_parser, run, say
from benchmarks.record import Row, Spread

_STEPS = 12
_LOOPBACK = "lo"
WORKERS = (2, 8, 32, 128, 1024)

Gradients = Callable[[Any, Any], Any]


def main() -> int:
    """Measures what the command line asks for, or is one of the workers."""
    parser = make_parser(__doc__)
    parser.add_argument("--bandwidth", type=float, default=1.25e9, help="bytes a second and worker")
    parser.add_argument("--worker", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--pair", choices=list(CASES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(_work(CASES[args.worker], args.quick)), flush=True)
        return 0
    if args.pair:
        print(json.dumps(_run_pair(args.pair, args.quick)), flush=True)
        return 0
    return run(parser, "scaling_out", measure)


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns a row for each way to train and number of workers."""
    apart = _own_network()
    found = {}
    for case in CASES:
        say(f"scaling_out: {case}")
        command = [*apart, sys.executable, "-m", "benchmarks.scaling_out", "--pair", case]
        command += ["--quick"] * args.quick
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[case] = json.loads(done.stdout.splitlines()[-1])
    rows = []
    for case, numbers in found.items():
        exact = found[_EXACT[case]]
        for workers in WORKERS:
            rows.append(_row(case, numbers, exact, workers, args.bandwidth))
    notes = [] if apart else ["Other programs' traffic on the loopback interface is counted, too."]
    return rows, notes


def _row(case: str, numbers: dict, exact: dict, workers: int, bandwidth: float) -> Row:
    share = 2 * (workers - 1) / workers
    sent = share * numbers["reduced_bytes"]
    exact_sent = share * exact["reduced_bytes"]
    step = numbers["compute_seconds"] + sent / bandwidth
    exact_step = exact["compute_seconds"] + exact_sent / bandwidth
    values = {
        "reduced, MB": numbers["reduced_bytes"] / 1e6,
        "sent by each worker, MB": sent / 1e6,
        "share of exact bytes": sent / exact_sent,
        "computing, ms": 1e3 * numbers["compute_seconds"],
        "step on paper, ms": 1e3 * step,
        "exact over this, on paper": exact_step / step,
    }
    if workers > 2:
        return Row({"training": case, "workers": workers}, {}, values)
    on_wire = np.array(numbers["bytes_of_steps"]) / 2
    values["measured, MB a worker"] = float(np.median(on_wire)) / 1e6
    ratios = {
        "exact bytes over these, measured": Spread.of(exact["bytes_of_steps"] / (2 * on_wire))
    }
    return Row({"training": case, "workers": workers}, ratios, values)


def _own_network() -> list[str]:
    """Returns a command prefix that gives a process a loopback interface of its own, or nothing."""
    prefix = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"']
    prefix.append("sh")
    tools = shutil.which("unshare") and shutil.which("ip")
    works = tools and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if works else []


def _run_pair(case: str, quick: bool) -> dict:
    """Returns what the first of two workers tells."""
    addresses = [f"127.0.0.1:{_free_port()}" for _ in range(2)]
    workers = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task), "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", "benchmarks.scaling_out", "--worker", case]
        command += ["--quick"] * quick
        workers.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError(f"a worker of {case!r} failed")
    return json.loads(outputs[0].splitlines()[-1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _perceptron(ratio: float) -> Callable[[bool], tuple[Any, np.ndarray]]:
    def build(quick: bool) -> tuple[Any, np.ndarray]:
        from tensorflow import keras

        from tfapprox.layers.crs_dense import CRSDense
        from tfapprox.sampling.settings import Sampling

        width, batch = (256, 64) if quick else (2048, 256)
        sampling = Sampling("topk", ratio, probabilities="weights", sparse_gradient=ratio < 1)
        hidden = [CRSDense(width, activation="relu", sampling=sampling) for _ in range(3)]
        model = keras.Sequential([keras.Input((width,)), *hidden, keras.layers.Dense(10)])
        return model, np.random.default_rng(0).normal(size=(batch, width)).astype(np.float32)

    return build


def _resnet(generated: bool) -> Callable[[bool], tuple[Any, np.ndarray]]:
    def build(quick: bool) -> tuple[Any, np.ndarray]:
        from experiments.csg_methods import find_network
        from tfapprox.rewriters.generate_slices import generate_slices

        network = find_network("resnet56")
        model = network.build(10, (32, 32, 3), "relu")
        if generated:
            model = generate_slices(
                model, network.slice_shape, network.code_size, network.generated
            ).model
        size = (4 if quick else 32, 32, 32, 3)
        return model, np.random.default_rng(0).normal(size=size).astype(np.float32)

    return build


CASES: dict[str, Callable[[bool], tuple[Any, np.ndarray]]] = {
    "perceptron, exact": _perceptron(1.0),
    "perceptron, half of the rows": _perceptron(0.5),
    "perceptron, a tenth of the rows": _perceptron(0.1),
    "ResNet-56, plain": _resnet(False),
    "ResNet-56, slice-generated": _resnet(True),
}

_EXACT = {
    case: "perceptron, exact" if case.startswith("perceptron") else "ResNet-56, plain"
    for case in CASES
}


def _work(build: Callable[[bool], tuple[Any, np.ndarray]], quick: bool) -> dict:
    """Computes and reduces gradients as one of two workers; returns bytes and seconds."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model, inputs = build(quick)
    variables = [v if isinstance(v, tf.Variable) else v.value for v in model.trainable_variables]
    x = tf.constant(inputs)
    reduced: list[int] = []

    def gradients() -> list[Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x, training=True) ** 2)
        return tape.gradient(loss, variables)

    def reduce(gradient: Any) -> Any:
        """Adds up over the workers, of a sampled kernel the rows alone: all chose the same."""
        context = tf.distribute.get_replica_context()
        values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        reduced.append(values.dtype.size * int(np.prod(values.shape)))
        return context.all_reduce(tf.distribute.ReduceOp.SUM, values)

    def replica_step() -> Any:
        # What comes back is not applied: an update sends nothing.
        reduced.clear()
        return [tf.reduce_sum(reduce(gradient)) for gradient in gradients()]

    @tf.function(autograph=False)
    def step() -> Any:
        return strategy.run(replica_step)

    @tf.function(autograph=False)
    def compute() -> Any:
        return strategy.run(gradients)

    seconds = _times(compute)
    step()
    traffic = []
    for _ in range(_STEPS):
        before = _loopback_bytes()
        step()
        time.sleep(0.05)  # until the other worker's last bytes are through
        traffic.append(_loopback_bytes() - before)
    return {
        "reduced_bytes": sum(reduced),
        "compute_seconds": seconds,
        "bytes_of_steps": traffic,
    }


def _times(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _loopback_bytes() -> int:
    """Returns the bytes that the loopback interface has carried."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    (line,) = (line for line in lines if line.strip().startswith(_LOOPBACK + ":"))
    return int(line.split(":")[1].split()[0])


if __name__ == "__main__":
    sys.exit(main())
