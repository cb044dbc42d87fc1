"""Time and peak memory of compressing a whole SavedModel, phase by phase.

A keras.applications model with random weights is exported, then compressed in a
process of its own. Its resident memory is sampled all the while; TensorFlow's own
share is what the process holds right after importing TensorFlow, running one
operation and loading its C library. The rest is given in multiples of the model's
parameter bytes. Verifying runs both models in TensorFlow; what that takes without
any compression is measured in one more process, original against original.

  python -m benchmarks.compression --model ResNet50 --keep_macs 0.5 --json
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

_SAMPLING_SECONDS = 0.01


def main() -> None:
    """Exports and compresses the model that the flags name, and prints what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="ResNet50", help="name in keras.applications")
    parser.add_argument("--keep_macs", type=float, default=0.5, help="share of the MACs to keep")
    parser.add_argument("--work_dir", help="keeps the exported model here for the next run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--child", choices=list(_CHILDREN), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(_CHILDREN[args.child](Path(args.work_dir), args.model, args.keep_macs)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.work_dir or scratch)
        source = folder / args.model
        if not source.exists():
            _export(args.model, source)
        result = _run_child("compress", folder, args) | _run_child("verify", folder, args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(*(f"{key}: {value}" for key, value in result.items()), sep="\n")


def _run_child(job: str, folder: Path, args: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "benchmarks.compression", "--child", job]
    command += ["--work_dir", str(folder), "--model", args.model]
    command += ["--keep_macs", str(args.keep_macs)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def _export(name: str, target: Path) -> None:
    from tensorflow import keras

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None)
    model.export(str(target), verbose=False)


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
    return {
        "model": name,
        "parameters": report.before.params,
        "model_MiB": round(model_bytes / 2**20, 1),
        "macs_kept": round(report.after.macs / report.before.macs, 4),
        "disk_bytes_kept": round(report.after.disk_bytes / report.before.disk_bytes, 4),
        "tensorflow_MiB": round(watch.start / 2**20, 1),
        "peak_over_model": round((max(watch.peaks.values()) - watch.start) / model_bytes, 2),
        "peak_over_model_by_phase": {
            phase: round((peak - watch.start) / model_bytes, 2)
            for phase, peak in watch.peaks.items()
        },
        "seconds": {phase: round(value, 2) for phase, value in report.seconds.items()},
        "load": os.getloadavg()[0],
        "tensorflow": tf.__version__,
    }


def _verify(folder: Path, name: str, keep_macs: float) -> dict:
    """Returns the memory of TensorFlow running the original twice, by both loaders."""
    import tensorflow as tf

    from tfapprox.rewriters.verify import verify_saved_model
    from tfapprox.serving import c_api

    tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64))).numpy()
    c_api.tensorflow_version()
    source = str(folder / name)
    variables = sum(f.stat().st_size for f in Path(source, "variables").iterdir())
    with _MemoryWatch() as watch:
        verify_saved_model(source, source)
    return {
        "verifying_original_alone_MiB": round((max(watch.peaks.values()) - watch.start) / 2**20),
        "original_variables_on_disk_MiB": round(variables / 2**20),
    }


_CHILDREN = {"compress": _compress, "verify": _verify}


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
    main()
