"""Speed of sampled products, forward and backward, against exact TensorFlow and PyTorch.

Baselines: stock TensorFlow; the best exact form (XLA, or dX written so that no kernel is
transposed); and, where the peers' environment is there, the column-row sampling that the
authors published for PyTorch, whose speed-up over exact PyTorch stands beside ours. Forms
run in turns.

  python -m benchmarks.crs_ops --ratios 0.5,0.25,0.1 --rounds 9 --fit

TensorFlow takes arrays of over 32 MB from the system anew in every step, and touching new
memory costs all forms the same, which lowers every ratio. With --allocator BFC it keeps them.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from benchmarks.command import make_parser, run, say
from benchmarks.peers.environment import Peer, PeerError
from benchmarks.record import Row, Value
from benchmarks.timing import Seconds, Timings, time_in_turns
from tfapprox.ops.approx_conv2d import approx_conv2d
from tfapprox.ops.approx_matmul import approx_matmul
from tfapprox.sampling.settings import Sampling

DENSE = {
    "512x1024x1024": (512, 1024, 1024),
    "512x2048x2048": (512, 2048, 2048),
    "1024x4096x4096": (1024, 4096, 4096),
    "700x650x10000": (700, 650, 10000),
    "128x4096x4096": (128, 4096, 4096),
}
CONV = {
    "160@32": (8, 32, 160),
    "320@16": (8, 16, 320),
    "640@8": (16, 8, 640),
    "32x160@32": (32, 32, 160),
    "32x320@16": (32, 16, 320),
    "32x640@8": (32, 8, 640),
    "128x160@32": (128, 32, 160),  # as in training the WRN-28-10 of the paper
    "128x320@16": (128, 16, 320),
    "128x640@8": (128, 8, 640),
}
_QUICK = ("512x1024x1024", "160@32")

Form = Callable[[], Any]


def main() -> int:
    """Measures what the command line asks for."""
    parser = make_parser(__doc__)
    cases = ",".join([*DENSE, *CONV])
    parser.add_argument(
        "--cases",
        default=cases,
        help="batch x in x out, or channels@size at a small batch, or batch x channels@size",
    )
    parser.add_argument("--ratios", default="0.5,0.25,0.1", help="shares of the pairs kept")
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each form")
    parser.add_argument("--sampling", default="topk", help="variant, see tfapprox.Sampling")
    parser.add_argument(
        "--allocator",
        default="malloc",
        choices=("malloc", "BFC"),
        help="of TensorFlow's arrays; BFC sets TF_CPU_ALLOCATOR_USE_BFC",
    )
    parser.add_argument("--fit", action="store_true", help="time fit of a 3x2048 perceptron, too")
    return run(parser, "crs_ops", measure)


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns a row for each case and ratio."""
    os.environ["TF_CPU_ALLOCATOR_USE_BFC"] = str(args.allocator == "BFC").lower()
    if args.threads:
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    ratios = [float(ratio) for ratio in args.ratios.split(",")]
    samplings = {f"crs {ratio}": Sampling(args.sampling, ratio) for ratio in ratios}
    rows = []
    with _peer(args.threads) as (peer, note):
        for case in _QUICK if args.quick else args.cases.split(","):
            say(f"crs_ops: {case}")
            forms = dense_forms(DENSE[case], samplings) if case in DENSE else {}
            forms = forms or conv_forms(CONV[case], samplings)
            forms |= torch_forms(peer, case, ratios) if peer else {}
            timings = time_in_turns(forms, 3 if args.quick else args.rounds)
            rows += summarise({"case": case, "allocator": args.allocator}, timings, ratios)
    if args.fit and not args.quick:
        say("crs_ops: fit")
        timings = time_in_turns(fit_forms(ratios, args.sampling), args.rounds)
        case = {"case": "fit of 3x2048, SGD, batch 512", "allocator": args.allocator}
        rows += summarise(case, timings, ratios)
    return rows, [note]


@contextmanager
def _peer(threads: int | None) -> Iterator[tuple[Peer | None, str]]:
    try:
        peer = Peer("torch_crs", threads)
    except PeerError as error:
        yield None, f"PyTorch was not measured: {error}"
        return
    with peer:
        yield peer, "PyTorch {torch}, {threads} threads".format(**peer.versions)


def dense_forms(shape: tuple[int, int, int], samplings: dict[str, Sampling]) -> dict[str, Form]:
    """Returns named forms of y = xW with dX and dW for x [m, n], W [n, p]."""
    m, n, p = shape
    x, w = tf.Variable(tf.random.normal([m, n])), tf.Variable(tf.random.normal([n, p]))
    dy, seed = tf.random.normal([m, p]), tf.constant([1, 2])

    def rewritten() -> Any:
        y = tf.matmul(x, w)
        dx = tf.transpose(tf.matmul(w, dy, transpose_b=True))
        return y, dx, tf.matmul(x, dy, transpose_a=True)

    products = {"exact": lambda: tf.matmul(x, w)}
    for name, sampling in samplings.items():
        products[name] = lambda s=sampling: approx_matmul(x, w, s, seed)
    return {**_both_compilers(products, [x, w], dy), "exact rewritten": tf.function(rewritten)}


def conv_forms(shape: tuple[int, int, int], samplings: dict[str, Sampling]) -> dict[str, Form]:
    """Returns named forms of a 3x3 SAME convolution with dX and dK, C channels to C filters."""
    batch, size, channels = shape
    x = tf.Variable(tf.random.normal([batch, size, size, channels]))
    w = tf.Variable(tf.random.normal([3, 3, channels, channels]))
    dy, seed = tf.random.normal([batch, size, size, channels]), tf.constant([1, 2])
    products = {"exact": lambda: tf.nn.conv2d(x, w, 1, "SAME")}
    for name, sampling in samplings.items():
        products[name] = lambda s=sampling: approx_conv2d(x, w, s, seed=seed)
    return _both_compilers(products, [x, w], dy)


def _both_compilers(
    products: dict[str, Form], sources: list[Any], dy: tf.Tensor
) -> dict[str, Form]:
    forms = {}
    for name, product in products.items():
        for suffix, jit in (("", False), (" xla", True)):

            @tf.function(jit_compile=jit)
            def run(product: Form = product) -> Any:
                with tf.GradientTape() as tape:
                    y = product()
                return y, *(tf.convert_to_tensor(g) for g in tape.gradient(y, sources, dy))

            forms[name + suffix] = run
    return forms


def torch_forms(peer: Peer, case: str, ratios: Sequence[float]) -> dict[str, Form]:
    """Returns the exact and the published PyTorch form, timed in the peers' process."""
    kind, shape = ("dense", DENSE[case]) if case in DENSE else ("conv", CONV[case])
    peer.ask(forget=True)
    forms = {}
    for ratio in (1.0, *ratios):
        name = f"torch {ratio}"
        peer.ask(make=name, kind=kind, shape=shape, ratio=ratio)
        forms[name] = lambda name=name: Seconds(peer.ask(run=name))
    return forms


def fit_forms(ratios: Sequence[float], variant: str) -> dict[str, Form]:
    """Returns one-epoch fits of a 3x2048 perceptron at batch 512 with SGD."""
    from tensorflow import keras

    from tfapprox.rewriters.approximate_training import (
        ApproximateTrainingConfig,
        approximate_training,
    )

    x, y = tf.random.normal([2048, 2048]), tf.random.uniform([2048], 0, 10, tf.int32)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(512, drop_remainder=True).cache()
    hidden = [keras.layers.Dense(2048, activation="relu") for _ in range(3)]
    exact = keras.Sequential([keras.Input((2048,)), *hidden, keras.layers.Dense(10)])
    models = {"exact": exact}
    for ratio in ratios:
        sampling = Sampling(variant, ratio, sparse_gradient=True)
        models[f"crs {ratio}"], _ = approximate_training(exact, ApproximateTrainingConfig(sampling))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    forms = {}
    for name, model in models.items():
        for suffix, jit in (("", False), (" xla", True)):
            twin = keras.models.clone_model(model)
            twin.compile(keras.optimizers.SGD(0.01), loss, jit_compile=jit)
            forms[name + suffix] = lambda twin=twin: twin.fit(data, verbose=0)
    return forms


def summarise(case: dict[str, Value], timings: Timings, ratios: Sequence[float]) -> list[Row]:
    """Returns one row a ratio, with the best sampled form against every baseline."""
    exact, rows = timings.best("exact"), []
    for ratio in ratios:
        form = timings.best(f"crs {ratio}")
        values: dict[str, Value] = {
            "form": "xla" if form.endswith("xla") else "graph",
            "ms": 1e3 * float(sorted(timings.wall[form])[len(timings.wall[form]) // 2]),
            "CPU over stock": timings.cpu_speed_up("exact", form),
            "CPU over best exact": timings.cpu_speed_up(exact, form),
        }
        speed_ups = {
            "over stock": timings.speed_up("exact", form),
            "over best exact": timings.speed_up(exact, form),
        }
        theirs = f"torch {ratio}"
        if theirs in timings.wall:
            values["torch over exact torch"] = timings.speed_up("torch 1.0", theirs).median
            speed_ups["over torch"] = timings.speed_up(theirs, form)
        rows.append(Row({**case, "kept": ratio}, speed_ups, values))
    return rows


if __name__ == "__main__":
    sys.exit(main())
