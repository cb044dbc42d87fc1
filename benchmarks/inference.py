"""Speed of compressed networks: the speed-up measured, that in MACs, and their ratio.

Networks are exported as SavedModels and compressed to shares of their MACs (or of their
latency) by several selectors; original and result then run in turns through TensorFlow's
C++ loader, at several batch sizes and numbers of threads.

  python -m benchmarks.inference --networks VGG16,ResNet50 --keeps 0.5 --batch_sizes 8

The way "latency" spends a latency budget; "alds, timed" spends a budget of MACs on
candidates that were measured to be faster than the dense operation. Compressed models and
timings of candidates stay in --work_dir and in the user's cache: a second run goes on
where the first was stopped.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.command import make_parser, run, say
from benchmarks.networks import NETWORKS, QUICK, Sizes, export_network
from benchmarks.record import Row, Spread
from tfapprox.compression import compress_saved_model
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError
from tfapprox.report.report import Report
from tfapprox.selection.problem import Budget
from tfapprox.serving.benchmark import LatencyRequest, measure_saved_models
from tfapprox.serving.inputs import generate_inputs
from tfapprox.serving.latency import TimingOptions
from tfapprox.serving.signature import default_signature, read_signatures

WAYS = {
    "uniform": {"selector": "uniform", "kind": "macs"},
    "alds": {"selector": "alds", "kind": "macs"},
    "alds, timed": {"selector": "alds", "kind": "macs", "faster": True},
    "latency": {"selector": "latency", "kind": "latency"},
}


def main() -> int:
    """Measures what the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated")
    parser.add_argument("--ways", default=";".join(WAYS), help="separated by semicolons")
    parser.add_argument("--keeps", default="0.5,0.25", help="shares of MACs or of latency")
    parser.add_argument("--batch_sizes", default="1,8,32", help="comma-separated")
    parser.add_argument("--thread_counts", default="1,2", help="of TensorFlow, comma-separated")
    parser.add_argument("--work_dir", type=Path, help="keeps models for the next run")
    return run(parser, "inference", measure)


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns a row for each network, way, keep ratio, batch size and number of threads."""
    sizes = QUICK if args.quick else Sizes()
    rows = []
    with tempfile.TemporaryDirectory(prefix="tfapprox-benchmark-") as scratch:
        folder = args.work_dir or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.networks.split(","):
            source = folder / f"{name}-{sizes.image}-{sizes.length}-{sizes.width}"
            export_network(name, sizes, source)
            for case in _cases(args):
                say(f"{name}: " + ", ".join(f"{k} {v}" for k, v in case.items()))
                rows.append(_measure_case(name, source, case))
    return rows, [_summary(rows)]


def _cases(args: argparse.Namespace) -> Iterator[dict]:
    keeps = [0.5] if args.quick else [float(x) for x in args.keeps.split(",")]
    batches = [8] if args.quick else [int(x) for x in args.batch_sizes.split(",")]
    threads = [2] if args.quick else [int(x) for x in args.thread_counts.split(",")]
    for way in args.ways.split(";"):
        for keep in keeps:
            for count in threads:
                for batch in batches:
                    yield {"way": way, "keep": keep, "threads": count, "batch": batch}


def _measure_case(name: str, source: Path, case: dict) -> Row:
    shown = {"network": name, **case}
    try:
        target = _compressed(source, **case)
    except UserError as error:
        return Row(shown, values={"note": str(error).splitlines()[0]})
    signatures = read_signatures(str(source))
    signature = default_signature(signatures)
    request = LatencyRequest(
        str(source), str(target), signature, (case["batch"],), threads=case["threads"],
        options=TimingOptions(min_rounds=15, min_seconds=3.0, max_rounds=300),
    )  # fmt: skip
    inputs = generate_inputs(signatures[signature], case["batch"])
    (latency,) = measure_saved_models(request, inputs)
    body = (target / "assets.extra/tfapprox/report.json").read_text()
    report = Report.from_json(json.loads(body))
    macs = report.before.macs / report.after.macs
    return Row(
        shown,
        {"speed-up": Spread(latency.ratio, *latency.ratio_range)},
        {
            "MAC speed-up": macs,
            "share of it": latency.ratio / macs,
            "original, ms": latency.original.p50,
            "sites": f"{report.replaced} of {len(report.plan.verdicts)}",
        },
    )


def _compressed(source: Path, way: str, keep: float, batch: int, threads: int) -> Path:
    """Returns the compressed model; ways that do not look at the clock share one a keep ratio."""
    settings = dict(WAYS[way])
    timed = settings["kind"] == "latency" or "faster" in settings
    place = f"{way}-{keep}" + (f"-{batch}-{threads}" if timed else "")
    target = source.with_name(f"{source.name}-{place.replace(', ', '-')}")
    if not target.exists():
        config = CompressionConfig(
            Budget(settings.pop("kind"), keep=keep), batch_size=batch, **settings
        )
        compress_saved_model(source, target, config, threads=threads, batch_sizes=())
    return target


def _summary(rows: list[Row]) -> str:
    slower = [row for row in rows if row.ratios and row.ratios["speed-up"].high < 1]
    return f"{len(slower)} of {len(rows)} results are slower than their original."


if __name__ == "__main__":
    sys.exit(main())
