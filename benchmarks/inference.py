"""Speed of compressed networks: the speed-up measured, that in MACs, and their ratio.

Networks are exported as SavedModels and compressed to shares of their MACs (or of their
latency) in several ways; the original and all its results then run in turns through
TensorFlow's C++ loader, at several batch sizes and numbers of threads.

  python -m benchmarks.inference --networks VGG16,ResNet50 --keeps 0.5 --batch_sizes 8

Every selector spends a budget of MACs. "latency, of MACs" and "alds, timed" spend theirs on
candidates that were measured to be faster than the dense operation; "latency" spends a budget
of latency. Only these three look at the clock: candidates are timed at --plan_batch and
--plan_threads, and the same models measured at every setting.

Everything stays in --work_dir, every measurement as soon as it is made: a run that was stopped
goes on where it was. Steps that need no quiet machine can be made before: --steps tables,write.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.command import make_parser, run, say
from benchmarks.compressing import STEPS, WAYS, Setting, Workplace, looks_at_the_clock
from benchmarks.networks import NETWORKS, QUICK, Sizes
from benchmarks.record import Row, Spread, Value
from benchmarks.timing import time_in_turns
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.inputs import generate_inputs
from tfapprox.serving.signature import default_signature, read_signatures


def main() -> int:
    """Measures what the command line asks for, or runs models of one network in turns."""
    parser = make_parser(__doc__)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated")
    parser.add_argument("--ways", default=";".join(WAYS), help="separated by semicolons")
    parser.add_argument("--keeps", default="0.5,0.25", help="shares of MACs or of latency")
    parser.add_argument("--batch_sizes", default="8,1,32", help="comma-separated")
    parser.add_argument("--thread_counts", default="2,1", help="of TensorFlow, comma-separated")
    parser.add_argument("--plan_batch", type=int, default=8, help="examples when timing candidates")
    parser.add_argument("--plan_threads", type=int, default=2, help="when timing candidates")
    parser.add_argument("--steps", default=",".join((*STEPS, "measure")), help="comma-separated")
    parser.add_argument("--seconds", type=float, default=40.0, help="of a measurement, about")
    parser.add_argument("--rounds", type=int, default=5, help="of a measurement, at least")
    parser.add_argument(
        "--work_dir", type=Path, default=Path("build/benchmarks/networks"), help="keeps everything"
    )
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(_run_in_turns(**args.child)))
        return 0
    return run(parser, "inference", measure)


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns a row for each network, setting and compressed model."""
    sizes = QUICK if args.quick else Sizes()
    setting = Setting(args.plan_batch, args.plan_threads)
    ways, keeps = args.ways.split(";"), [float(x) for x in args.keeps.split(",")]
    batches = [int(x) for x in args.batch_sizes.split(",")]
    threads = [int(x) for x in args.thread_counts.split(",")]
    if args.quick:
        keeps, batches, threads = keeps[:1], batches[:1], threads[:1]
    places = {
        name: Workplace(args.work_dir, name, sizes, setting) for name in args.networks.split(",")
    }
    steps = args.steps.split(",")
    for step in STEPS:
        for place in places.values() if step in steps else ():
            place.prepare(step, ways, keeps)
    models = [(way, keep) for keep in keeps for way in ways]
    limits = (args.seconds, args.rounds) if "measure" in steps else None
    rows = []
    for count in threads:
        for batch in batches:
            for name, place in places.items():
                case = {"network": name, "threads": count, "batch": batch}
                rows += _measure_case(place, case, models, limits)
    for name, place in places.items():
        rows += _impossible(place, name, models)
    return rows, [_summary(rows), _circumstances(setting)]


def _impossible(place: Workplace, name: str, models: list[tuple[str, float]]) -> list[Row]:
    """Returns a row, with the reason, for each result that can't be had at any setting."""
    rows = []
    for way, keep in models:
        facts = place.facts(way, keep)
        if facts and "MAC speed-up" not in facts:
            rows.append(Row({"network": name, "way": way, "keep": keep}, values=facts))
    return rows


def _measure_case(
    place: Workplace,
    case: dict[str, Value],
    models: list[tuple[str, float]],
    limits: tuple[float, int] | None,
) -> list[Row]:
    """Returns the rows of a network at one setting, measured now unless they were before."""
    kept = place.folder / "measured-{batch}-{threads}.json".format(**case)
    known: dict = json.loads(kept.read_text()) if kept.exists() else {}
    there = {place.model(*m).name: m for m in models if place.model(*m).exists()}
    missing = [name for name in there if name not in known]
    if missing and limits is not None:
        say("inference: " + ", ".join(f"{k} {v}" for k, v in case.items()))
        known |= _measured(place.folder, missing, case, limits)
        kept.write_text(json.dumps(known, indent=1))
    rows = []
    for way, keep in models:
        times = known.get(place.model(way, keep).name)
        if times is not None:
            rows.append(_row({**case, "way": way, "keep": keep}, times, place.facts(way, keep)))
    return rows


def _row(case: dict[str, Value], measured: dict, facts: dict) -> Row:
    clock = "cpu" if case["threads"] == 1 else "wall"
    original, result = np.array(measured[clock])
    speed_up = Spread.of(original / result)
    values: dict[str, Value] = {
        "MAC speed-up": facts["MAC speed-up"],
        "share of it": speed_up.median / facts["MAC speed-up"],
        "original, ms": 1e3 * float(np.median(original)),
        "rounds": len(original),
        "sites": facts["sites"],
    }
    return Row(case, {"speed-up": speed_up}, values)


def _measured(
    folder: Path, models: list[str], case: dict[str, Value], limits: tuple[float, int]
) -> dict:
    """Returns the seconds of the original and of each model, run in turns in a fresh process."""
    order = {
        "folder": str(folder), "models": models, "batch": case["batch"],
        "threads": case["threads"], "seconds": limits[0], "rounds": limits[1],
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.inference", "--child", json.dumps(order)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def _run_in_turns(
    folder: str, models: list[str], batch: int, threads: int, seconds: float, rounds: int
) -> dict:
    source = str(Path(folder, "original"))
    signatures = read_signatures(source)
    signature = default_signature(signatures)
    inputs = generate_inputs(signatures[signature], batch)
    with contextlib.ExitStack() as stack:
        calls = {}
        for name in ["original", *models]:
            session = stack.enter_context(CcSession(str(Path(folder, name)), threads=threads))
            calls[name] = partial(session.run, inputs, signature)
            calls[name]()
        start = time.perf_counter()
        time_in_turns(calls, 1, warm_up=0)
        once = time.perf_counter() - start
        timings = time_in_turns(calls, min(200, max(rounds, int(seconds / once))), warm_up=0)
    clocks = {"wall": timings.wall, "cpu": timings.cpu}
    return {
        name: {
            clock: [list(times["original"]), list(times[name])] for clock, times in clocks.items()
        }
        for name in models
    }


def _summary(rows: list[Row]) -> str:
    timed = [row for row in rows if row.ratios and looks_at_the_clock(str(row.case["way"]))]
    others = [row for row in rows if row.ratios and row not in timed]
    return (
        f"Slower than their original are {_slower(timed)} of {len(timed)} results of ways that "
        f"look at the clock, and {_slower(others)} of {len(others)} of the others."
    )


def _slower(rows: list[Row]) -> int:
    return sum(row.ratios["speed-up"].high < 1 for row in rows)


def _circumstances(setting: Setting) -> str:
    return (
        f"Candidates were timed at batch {setting.batch} with {setting.threads} threads. Original "
        "and results ran in turns in one process; with one thread the ratios are those of CPU time."
    )


if __name__ == "__main__":
    sys.exit(main())
