"""Time and peak memory of compressing whole SavedModels of 1M to 150M parameters.

A network with random weights is exported, then compressed in a process of its own. Its
resident memory is sampled all the while; TensorFlow's own share is what the process holds
right after importing TensorFlow, running one operation and loading its C library. The rest is
given in multiples of the model's parameter bytes. Verifying runs both models in TensorFlow;
what that takes without any compression is measured in one more process, original against
original. Seconds are those of the processor, of all threads, and so hardly depend on what
else the machine does; the SVDs that planning needs are timed by benchmarks.planning.

  python -m benchmarks.compression --models ResNet-56,MobileNetV2,ResNet50,VGG16
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, run, say
from benchmarks.record import Row, Value

_SAMPLING_SECONDS = 0.01
_MODELS = ("ResNet-56", "MobileNetV2", "ResNet50", "VGG16")


def main() -> int:
    """Measures what the command line asks for, or does one step of it."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--models", default=",".join(_MODELS), help="ResNet-56, or in keras.applications"
    )
    parser.add_argument("--keep_macs", type=float, default=0.5, help="share of the MACs to keep")
    parser.add_argument("--work_dir", help="keeps the exported models here for the next run")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        job, name = args.child
        print(json.dumps(_CHILDREN[job](Path(args.work_dir), name, args.keep_macs)))
        return 0
    return run(parser, "compression", measure)


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns a row for each model."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.work_dir or scratch)
        for name in ["MobileNetV2"] if args.quick else args.models.split(","):
            say(f"compression: {name}")
            jobs = ("export", "compress", "verify")
            values: dict[str, Value] = {}
            for job in jobs:
                values |= _run_child(job, name, folder, args.keep_macs)
            rows.append(Row({"model": name}, {}, values))
    return rows, []


def _run_child(job: str, name: str, folder: Path, keep_macs: float) -> dict:
    command = [sys.executable, "-m", "benchmarks.compression", "--child", job, name]
    command += ["--work_dir", str(folder), "--keep_macs", str(keep_macs)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def _export(folder: Path, name: str, keep_macs: float) -> dict:
    """Writes the model unless an earlier run did."""
    target = folder / name
    if not target.exists():
        from tensorflow import keras

        keras.utils.set_random_seed(0)
        model = _resnet56() if name == "ResNet-56" else _application(name)
        model.export(str(target), verbose=False)
    return {}


def _resnet56() -> Any:
    from experiments.csg_methods import find_network

    return find_network("resnet56").build(10, (32, 32, 3), "relu")


def _application(name: str) -> Any:
    from tensorflow import keras

    return getattr(keras.applications, name)(weights=None)


def _compress(folder: Path, name: str, keep_macs: float) -> dict:
    """Returns sizes, seconds and memory of one compression, in this process, as by the program."""
    import tensorflow as tf

    from tfapprox.cli.freed_memory import return_freed_arrays
    from tfapprox.compression import compress_saved_model
    from tfapprox.config import CompressionConfig
    from tfapprox.selection.problem import Budget
    from tfapprox.serving import c_api

    tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64))).numpy()
    c_api.tensorflow_version()
    return_freed_arrays()
    watch, started = _MemoryWatch(), time.process_time()
    processor: dict[str, float] = {}

    def enter(phase: str, done: int, total: int) -> None:
        watch.enter(phase)
        processor.setdefault(phase, time.process_time() - started)

    with watch:
        report = compress_saved_model(
            folder / name,
            folder / f"{name}-compressed",
            CompressionConfig(Budget("macs", keep=keep_macs)),
            overwrite=True,
            batch_sizes=(),
            progress=enter,
        )
    planning = processor["factorizing"]
    model_bytes = 4 * report.before.params
    over_model = {phase: (peak - watch.start) / model_bytes for phase, peak in watch.peaks.items()}
    until_written = max(over_model[phase] for phase in over_model if phase != "verifying")
    return {
        "parameters": report.before.params,
        "sites": len(report.plan.verdicts),
        "bytes kept": report.after.disk_bytes / report.before.disk_bytes,
        "reading and planning, CPU s": planning,
        "factorizing, CPU s": processor["writing"] - processor["factorizing"],
        "writing, CPU s": processor["verifying"] - processor["writing"],
        "all but verifying, CPU s": processor["verifying"],
        "planning, CPU us a parameter": 1e6 * planning / report.before.params,
        "peak until written, in models": until_written,
        "peak in all, in models": max(over_model.values()),
    }


def _verify(folder: Path, name: str, keep_macs: float) -> dict:
    """Returns the memory of TensorFlow running the original twice, by both loaders."""
    import tensorflow as tf

    from tfapprox.rewriters.verify import verify_saved_model
    from tfapprox.serving import c_api

    tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64))).numpy()
    c_api.tensorflow_version()
    source = str(folder / name)
    with _MemoryWatch() as watch:
        verify_saved_model(source, source)
    return {"verifying alone, MiB": round((max(watch.peaks.values()) - watch.start) / 2**20)}


_CHILDREN = {"export": _export, "compress": _compress, "verify": _verify}


class _MemoryWatch:
    """Samples the resident memory of this process; keeps the peak of each phase."""

    def __init__(self) -> None:
        self.start = _resident_bytes()
        self.peaks: dict[str, int] = {}
        self._phase = "start"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def enter(self, phase: str) -> None:
        self._phase = phase

    def __enter__(self) -> "_MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.is_set():
            self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), _resident_bytes())
            time.sleep(_SAMPLING_SECONDS)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
