"""The command line that every benchmark has: sizes, where to write, what to print."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.record import Record, Row, format_value, this_environment
from tfapprox.cli.hush import hushed_tensorflow
from tfapprox.errors import UserError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

Measure = Callable[[argparse.Namespace], tuple[Sequence[Row], Sequence[str]]]
"""Returns rows and notes."""


def make_parser(documentation: str) -> argparse.ArgumentParser:
    """Returns a parser that knows --quick, --threads, --output and --json."""
    parser = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small cases, minutes in all")
    parser.add_argument("--threads", type=int, help="of TensorFlow (default: its own choice)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def run(parser: argparse.ArgumentParser, name: str, measure: Measure) -> int:
    """Parses the command line, measures, writes and prints; returns the exit status."""
    args = parser.parse_args()
    try:
        with hushed_tensorflow():
            rows, notes = measure(args)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    hidden = ("output", "json", "work_dir")  # where things lay on one machine
    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(args).items()
        if key not in hidden
    }
    title = (parser.description or "").splitlines()[0]
    record = Record(
        name, title, settings, this_environment(args.threads), tuple(rows), tuple(notes)
    )
    if args.output:
        record.write(args.output)
    if args.json:
        print(json.dumps(dataclasses.asdict(record), indent=1))
    else:
        show(record)
    return 0


def show(record: Record) -> None:
    """Prints a record as a table for people."""
    cells = [{**row.case, **row.values, **row.ratios} for row in record.rows]
    columns = list(dict.fromkeys(name for row in cells for name in row))
    table = Table(*columns, title=record.title)
    for row in cells:
        table.add_row(*(format_value(row.get(name)) for name in columns))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    for note in record.notes:
        console.print(note, markup=False)


def say(text: str) -> None:
    """Tells the user what is going on; every case takes more than two seconds."""
    print(text, file=sys.stderr, flush=True)
