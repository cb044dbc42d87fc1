"""Runs every benchmark, one process each, and writes what they found as pages and plots.

  python -m benchmarks.suite --quick        minutes
  python -m benchmarks.suite                hours

A benchmark whose record is there already is not run again: a suite that was stopped goes on,
and --fresh starts over. Records of two suites can be compared by benchmarks.compare.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.plots import plot_record
from benchmarks.record import Record

BENCHMARKS = {
    "inference": "Compressed networks in TensorFlow's C++ loader",
    "quality": "Errors at equal MACs",
    "planning": "Planning against the SVDs it needs",
    "compression": "Whole compressions: time and memory",
    "rewriting": "Larger and larger graphs",
    "crs_ops": "Sampled products",
    "csg_training": "Slice-generated convolutions",
    "serving_load": "Under load, by gRPC",
    "scaling_out": "Several workers",
}


def main() -> int:
    """Runs what the command line asks for; exits with 1 when a benchmark failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small cases, minutes in all")
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="comma-separated")
    parser.add_argument("--threads", type=int, help="of TensorFlow (default: its own choice)")
    parser.add_argument("--fresh", action="store_true", help="run again what has a record")
    parser.add_argument(
        "--output_dir", type=Path, help="default docs/benchmarks, or build/ if quick"
    )
    args = parser.parse_args()
    folder = args.output_dir or Path("build/benchmarks" if args.quick else "docs/benchmarks")
    failed = [name for name in args.only.split(",") if not _run(name, folder, args)]
    write_pages(folder)
    for name in failed:
        print(f"{name} failed; its messages are above", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, folder: Path, args: argparse.Namespace) -> bool:
    record = folder / f"{name}.json"
    if record.exists() and not args.fresh:
        print(f"{name}: {record} is there already", file=sys.stderr)
        return True
    print(f"{name}: {BENCHMARKS[name]}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--output", str(record)]
    command += ["--quick"] * args.quick
    command += ["--threads", str(args.threads)] * (args.threads is not None)
    return subprocess.run(command).returncode == 0


def write_pages(folder: Path) -> None:
    """Writes records.md, with the tables and plots of all records in the folder."""
    parts = ["# Benchmarks", "", "Ratios are medians of runs in turns, with their quartiles.", ""]
    for name, title in BENCHMARKS.items():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        record = Record.read(path)
        parts.append(record.to_markdown())
        if plot_record(record, folder / f"{name}.svg"):
            parts += [f"![{title}]({name}.svg)", ""]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.md").write_text("\n".join(parts))


if __name__ == "__main__":
    sys.exit(main())
