"""Measured speed-up against the speed-up in MACs, of ranks chosen by MACs and by latency.

A VGG-style network (six 3x3 convolutions, two dense layers, random weights: neither time
depends on their values) is compressed to half of its MACs by exact ALDS and by the latency
selector, and to half of its latency by both, at each batch size. For each result the
original and it are timed in turns in one process. The first run also times the candidates,
which takes a few minutes; they stay in the user's cache.

What is no site (pooling, ReLU, biases) takes its time whatever the MACs: with a share s of
the original's time in its sites, a network with a share m of the MACs can't be faster than
1 / (1 - s + s m) times. That limit stands beside the measured speed-up.

  python -m benchmarks.latency_selector --batch_sizes 1,8 --threads 2 --json
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tfapprox.compression import compress_saved_model
from tfapprox.config import CompressionConfig
from tfapprox.report.report import Report
from tfapprox.selection.problem import Budget

WAYS = (("alds", "macs"), ("latency", "macs"), ("alds", "latency"), ("latency", "latency"))
"""Selector and what it is to keep a share of."""


def main() -> None:
    """Runs every way at every batch size and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_sizes", default="1,8", help="comma-separated")
    parser.add_argument("--threads", type=int, default=2, help="of TensorFlow's pools")
    parser.add_argument("--keep", type=float, default=0.5, help="share of MACs or latency")
    parser.add_argument("--image_size", type=int, default=32, help="of the network's input")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="tfapprox-benchmark-") as folder:
        source = Path(folder, "vgg")
        export_network(source, args.image_size)
        for batch_size in map(int, args.batch_sizes.split(",")):
            for selector, kind in WAYS:
                config = CompressionConfig(
                    Budget(kind, keep=args.keep), selector=selector, batch_size=batch_size
                )
                report = compress_saved_model(
                    source, Path(folder, "small"), config, overwrite=True,
                    batch_sizes=(batch_size,), threads=args.threads, progress=_progress,
                )  # fmt: skip
                results.append({"selector": selector, "budget": kind, **summarise(report)})
    if args.json:
        print(json.dumps({"load": os.getloadavg()[0], "results": results}, indent=1))
        return
    print(f"load average {os.getloadavg()[0]:.1f}; {args.threads} threads; keep {args.keep}")
    for row in results:
        print(*(f"{key} {value}" for key, value in row.items()), sep="  ")


def export_network(path: Path, size: int) -> None:
    """Writes the network as a SavedModel."""
    from tensorflow import keras

    layers = keras.layers
    model = keras.Sequential([keras.Input((size, size, 3))])
    for channels in (64, 128, 256):
        for _ in range(2):
            model.add(layers.Conv2D(channels, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dense(10))
    model.export(path, verbose=False)


def summarise(report: Report) -> dict[str, Any]:
    """Returns the figures of one result."""
    (latency,) = report.latency
    macs = report.before.macs / report.after.macs
    times = report.plan.settings.get("latency")
    predicted = times and round(times["original"] / times["compressed"], 2)
    return {
        "batch": latency.batch_size,
        "macs_speedup": round(macs, 2),
        "measured_speedup": round(latency.ratio, 2),
        "quartiles": [round(ratio, 2) for ratio in latency.ratio_range],
        "share_of_macs_speedup": round(latency.ratio / macs, 2),
        "predicted_speedup": predicted,
        "limit_by_macs": times and round(limit_by_macs(report), 2),
        "original_ms": round(latency.original.p50, 2),
        "rounds": latency.rounds,
        "sites": f"{report.replaced} of {len(report.plan.verdicts)}",
        "seconds": round(sum(report.seconds.values())),
    }


def limit_by_macs(report: Report) -> float:
    """Returns the speed-up if the sites were faster by just as much as they save MACs."""
    verdicts = report.plan.verdicts
    original = report.plan.settings["latency"]["original"] * 1e6
    sites = sum(v.before.latency for v in verdicts)
    ideal = sum(v.before.latency * v.after.macs / v.before.macs for v in verdicts)
    return original / (original - sites + ideal)


def _progress(phase: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{phase} {done}/{total}      ", end="", file=sys.stderr)


if __name__ == "__main__":
    main()
