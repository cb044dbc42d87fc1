"""Times sampled products, forward and backward, against exact TensorFlow.

Forms run in turn and medians are reported, so that a busy machine slows all of them.
Baselines: stock TensorFlow; the best exact form (XLA, or dX written so that no
kernel is transposed); and, where torch is installed, the column-row sampling that
the authors published for PyTorch, in its plain form (index_select of the top-k).

  python -m benchmarks.crs_ops --ratios=0.5,0.25,0.1 --repeats=9

Asserts nothing.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from absl import app, flags
from rich.console import Console
from rich.table import Table

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
CONV = {"160@32": (8, 32, 160), "320@16": (8, 16, 320), "640@8": (16, 8, 640)}

_CASES = flags.DEFINE_list("cases", list(DENSE) + list(CONV), "Shapes to time.")
_RATIOS = flags.DEFINE_list("ratios", ["0.5", "0.25", "0.1"], "Forward sampling ratios.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed runs of each form.", lower_bound=1)
_SAMPLING = flags.DEFINE_string("sampling", "topk", "Sampling variant.")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file to write.")
_FIT = flags.DEFINE_bool("fit", False, "Also time fit of a 3x2048 perceptron, batch 512, SGD.")

Form = Callable[[], Any]


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


def torch_forms(shape: tuple[int, int, int], ratios: Sequence[float]) -> dict[str, Form]:
    """Returns the published PyTorch form of a sampled dense product; empty without torch."""
    try:
        import torch
    except ImportError:
        return {}
    m, n, p = shape
    x, w = torch.randn(m, n, requires_grad=True), torch.randn(n, p, requires_grad=True)
    dy = torch.randn(m, p)

    def form(ratio: float) -> Form:
        def run() -> None:
            x.grad = w.grad = None
            with torch.no_grad():
                weights = x.norm(dim=0) * w.norm(dim=1)
                index = torch.topk(weights, int(n * ratio)).indices
            torch.matmul(x.index_select(1, index), w.index_select(0, index)).backward(dy)

        return run

    return {f"torch {ratio}": form(ratio) for ratio in ratios}


def medians(forms: dict[str, Form], repeats: int) -> list[dict[str, float]]:
    """Returns wall and CPU seconds of each form: medians of `repeats` runs, taken in turn.

    CPU seconds, of all threads, are the steadier measure on a machine that others use.
    """
    clocks = (time.perf_counter, time.process_time)
    times: list[dict[str, list[float]]] = [{name: [] for name in forms} for _ in clocks]
    for repeat in range(repeats + 1):
        for name, form in forms.items():
            starts = [clock() for clock in clocks]
            form()
            if repeat:
                for taken, clock, start in zip(times, clocks, starts, strict=True):
                    taken[name].append(clock() - start)
    return [{name: statistics.median(t) for name, t in taken.items()} for taken in times]


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


def report(
    case: str, clocks: Sequence[dict[str, float]], ratios: Sequence[float]
) -> list[dict[str, Any]]:
    """Returns one record a ratio, with the best sampled form against every baseline."""
    wall, cpu = clocks
    records = []
    for ratio in ratios:
        own = [f"crs {ratio}", f"crs {ratio} xla"]
        form = min(own, key=wall.__getitem__)
        record = {
            "case": case,
            "ratio": ratio,
            "form": "xla" if form.endswith("xla") else "graph",
            "ms": 1e3 * wall[form],
            "over stock": wall["exact"] / wall[form],
            "over best exact": _best_exact(wall) / wall[form],
            "CPU over stock": cpu["exact"] / cpu[form],
            "CPU over best": _best_exact(cpu) / cpu[form],
        }
        if f"torch {ratio}" in wall:
            record["over torch"] = wall[f"torch {ratio}"] / wall[form]
        records.append(record)
    return records


def _best_exact(seconds: dict[str, float]) -> float:
    return min(s for name, s in seconds.items() if name.startswith("exact"))


def main(argv: Sequence[str]) -> int:
    del argv
    ratios = [float(ratio) for ratio in _RATIOS.value]
    samplings = {f"crs {ratio}": Sampling(_SAMPLING.value, ratio) for ratio in ratios}
    records = []
    for case in _CASES.value:
        if case in DENSE:
            forms = dense_forms(DENSE[case], samplings) | torch_forms(DENSE[case], ratios)
        else:
            forms = conv_forms(CONV[case], samplings)
        records += report(case, medians(forms, _REPEATS.value), ratios)
    if _FIT.value:
        forms = fit_forms(ratios, _SAMPLING.value)
        records += report("fit 3x2048", medians(forms, _REPEATS.value), ratios)
    columns = list(dict.fromkeys(key for record in records for key in record))
    table = Table(*columns, title=f"{os.cpu_count()} CPUs, medians of {_REPEATS.value}")
    for record in records:
        cells = (record.get(key, "") for key in columns)
        table.add_row(*(f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells))
    Console().print(table)
    if _OUTPUT.value:
        with open(_OUTPUT.value, "w") as file:
            json.dump(records, file, indent=1)
    return 0


if __name__ == "__main__":
    app.run(lambda argv: sys.exit(main(argv)))
