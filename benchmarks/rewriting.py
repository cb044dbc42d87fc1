"""Time and memory of rewriting SavedModels: larger and larger graphs, and 2.6 GB of weights.

`growing` shows whether time is linear in the number of nodes: a chain of small dense layers,
each with a variable of its own, is opened and written with every kernel factorized. `large`
rewrites a model whose weights exceed what one proto can hold, with one kernel factorized (the
result exceeds it too) and with all of them, and runs the results in both loaders. Its kernels
are products of thin factors, so that what the result must compute is known without the
original. Every step runs in a process of its own, of which the peak of memory is told.

  python -m benchmarks.rewriting --workloads growing,large
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.command import make_parser, run, say
from benchmarks.record import Row
from tfapprox.accounting.factorization import Factorization, Stage

NODES = (1000, 3000, 10000)
_WIDTH, _RANK = 16, 2
_LARGE_WIDTH, _LARGE_LAYERS = 10500, 6


def main() -> int:
    """Measures what the command line asks for, or does one step of it."""
    parser = make_parser(__doc__)
    parser.add_argument("--workloads", default=",".join(_RUNS), help="comma-separated")
    parser.add_argument("--folder", help="where to write models (default: a temporary one)")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        name, *settings = args.step
        print(json.dumps(_STEPS[name](*settings)))
        return 0
    return run(parser, "rewriting", measure)


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns the rows of the workloads asked for."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tfapprox-rewriting-", dir=args.folder) as folder:
        for name in ["growing"] if args.quick else args.workloads.split(","):
            say(f"rewriting: {name}")
            rows += _RUNS[name](folder, args.quick)
    return rows, []


def run_growing(folder: str, quick: bool) -> list[Row]:
    """Returns processor time and memory of opening and writing larger and larger graphs."""
    rows = []
    for nodes in NODES[:2] if quick else NODES:
        source = str(Path(folder, f"growing_{nodes}"))
        built = _run_step("build", source, _WIDTH, _RANK, nodes // 9)
        step = _run_step("rewrite", source, source + "_out", _WIDTH, _RANK, nodes // 9, "all")
        per_node = {
            f"{phase}, CPU ms a node": 1e3 * step[f"{phase}_s"] / built["nodes"]
            for phase in ("open", "write")
        }
        memory = {"peak above TensorFlow, MB": step["peak_mb_above_tensorflow"]}
        rows.append(Row({"model": f"{built['nodes']} nodes"}, {}, per_node | memory))
    return rows


def run_large(folder: str, quick: bool) -> list[Row]:
    """Returns memory and agreement for weights above 2 GB."""
    source, model = str(Path(folder, "large")), (_LARGE_WIDTH, _RANK, _LARGE_LAYERS)
    built = _run_step("build", source, *model)
    rows = []
    for chosen in ("one", "all"):
        target = f"{source}_{chosen}"
        step = _run_step("rewrite", source, target, *model, chosen)
        values = {
            "model, MB": built["disk_mb"],
            "result, MB": step["disk_mb"],
            "peak above TensorFlow, MB": step["peak_mb_above_tensorflow"],
            "peak in models": step["peak_mb_above_tensorflow"] / built["disk_mb"],
        }
        for loader in ("python", "cxx"):
            found = _run_step("run", target, *model, loader)
            values[f"error, {loader}"] = found["relative_error"]
        rows.append(Row({"model": f"large, {chosen} of {_LARGE_LAYERS} kernels"}, {}, values))
        shutil.rmtree(target)
    return rows


_RUNS: dict[str, Callable[[str, bool], list[Row]]] = {"growing": run_growing, "large": run_large}


def _run_step(*step: object) -> dict:
    command = [sys.executable, "-m", "benchmarks.rewriting", "--step", *map(str, step)]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=quiet, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _factors(width: str, rank: str, layers: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the factors [width, rank] and [rank, width] of every layer's kernel."""
    rng = np.random.default_rng(0)
    for _ in range(int(layers)):
        first = rng.standard_normal((int(width), int(rank)), np.float32)
        second = rng.standard_normal((int(rank), int(width)), np.float32)
        yield first / np.sqrt(np.float32(width)), second


def build(path: str, *model: str) -> dict:
    """Saves a chain of dense layers."""
    import tensorflow as tf

    root = tf.Module()
    root.kernels = [tf.Variable(a @ b) for a, b in _factors(*model)]
    spec = tf.TensorSpec([None, int(model[0])], tf.float32, name="x")

    @tf.function(input_signature=[spec])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        for kernel in root.kernels:
            x = tf.tanh(tf.matmul(x, kernel))
        return {"y": x}

    root.serve = serve
    tf.saved_model.save(root, path, {"serving_default": serve})
    from tfapprox.rewriters.saved_model.files import SavedModelFiles

    graph = SavedModelFiles(path, ("serve",)).meta.graph_def
    nodes = len(graph.node) + sum(len(f.node_def) for f in graph.library.function)
    return {"nodes": nodes, "disk_mb": _megabytes(path), "peak_mb": _peak_megabytes()}


def rewrite(source: str, target: str, *model: str) -> dict:
    """Opens a model and writes it with one kernel or all of them factorized."""
    *model, chosen = model  # type: ignore[assignment]
    import tensorflow as tf

    from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model

    assert tf.__version__
    before = _peak_megabytes()
    started = time.process_time()
    opened = open_saved_model(source)
    sites = opened.inspection.sites
    between = time.process_time()
    stages = [
        Factorization((Stage(a[None, None]), Stage(b[None, None], axes=(False, False))))
        for a, b in _factors(*model)
    ]
    names = [site.name for site in sites]  # in order of execution
    replacements = dict(zip(names, stages, strict=True))
    if chosen == "one":
        replacements = dict(list(replacements.items())[:1])
    wrote = time.process_time()
    write_saved_model(opened, replacements, target)
    return {
        "sites": len(sites),
        "open_s": round(between - started, 2),
        "write_s": round(time.process_time() - wrote, 2),
        "disk_mb": _megabytes(target),
        "peak_mb_above_tensorflow": _peak_megabytes() - before,
    }


def run_result(path: str, *model: str) -> dict:
    """Runs a result in one loader and compares it with the factors' own product."""
    *model, loader = model  # type: ignore[assignment]
    x = np.random.default_rng(1).standard_normal((2, int(model[0])), np.float32)
    want = x.astype(np.float64)
    for first, second in _factors(*model):
        want = np.tanh(want @ first @ second)
    if loader == "cxx":
        from tfapprox.serving.cc_loader import CcSession

        with CcSession(path) as session:
            got = session.run({"x": x}, "serving_default")["y"]
    else:
        import tensorflow as tf

        got = tf.saved_model.load(path).signatures["serving_default"](x=tf.constant(x))["y"].numpy()
    error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    return {"relative_error": error, "peak_mb": _peak_megabytes()}


_STEPS: dict[str, Callable[..., dict]] = {"build": build, "rewrite": rewrite, "run": run_result}


def _megabytes(path: str) -> int:
    return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file()) >> 20


def _peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    sys.exit(main())
