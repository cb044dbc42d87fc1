"""Time and peak memory of compressing whole SavedModels, phase by phase.

A keras.applications model with random weights is exported, then compressed in a process of
its own. Its resident memory is sampled all the while; TensorFlow's own share is what the
process holds right after importing TensorFlow, running one operation and loading its C
library. The rest is given in multiples of the model's parameter bytes. Verifying runs both
models in TensorFlow; what that takes without any compression is measured in one more
process, original against original.

  python -m benchmarks.compression --models MobileNetV2,ResNet50,VGG16
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

from benchmarks.command import make_parser, run, say
from benchmarks.record import Row

_SAMPLING_SECONDS = 0.01


def main() -> int:
    """Measures what the command line asks for, or does one step of it."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--models", default="MobileNetV2,ResNet50,VGG16", help="in keras.applications"
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
            values = {}
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
        model = getattr(keras.applications, name)(weights=None)
        model.export(str(target), verbose=False)
    return {}


def _compress(folder: Path, name: str, keep_macs: float) -> dict:
    """Returns sizes, seconds and memory of one compression, in this process."""
    import tensorflow as tf

    from tfapprox.compression import compress_saved_model
    from tfapprox.config import CompressionConfig
    from tfapprox.selection.problem import Budget
    from tfapprox.serving import c_api

    tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64))).numpy()
    c_api.tensorflow_version()
    watch = _MemoryWatch()
    with watch:
        report = compress_saved_model(
            folder / name,
            folder / f"{name}-compressed",
            CompressionConfig(Budget("macs", keep=keep_macs)),
            overwrite=True,
            batch_sizes=(),
            progress=lambda phase, done, total: watch.enter(phase),
        )
    model_bytes = 4 * report.before.params
    over_model = {phase: (peak - watch.start) / model_bytes for phase, peak in watch.peaks.items()}
    until_written = max(over_model[phase] for phase in over_model if phase != "verifying")
    return {
        "parameters": report.before.params,
        "sites": len(report.plan.verdicts),
        "bytes kept": report.after.disk_bytes / report.before.disk_bytes,
        "planning, s": report.seconds["planning"],
        "writing, s": report.seconds["writing"],
        "all but verifying, s": sum(report.seconds.values()) - report.seconds["verifying"],
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
