"""Says which ratios of a benchmark fell between two runs by more than the noise.

Only ratios are compared: two things that were measured in turns in one run, so that the
runs may come from busy hours or other machines. A ratio fell when the upper quartile of
the new run is below the lower quartile of the old one and the medians differ by more
than the tolerance.

  python -m benchmarks.compare OLD.json NEW.json

Exits with status 1 when something fell, 2 when the files can't be compared.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.record import Record, Spread


@dataclasses.dataclass(frozen=True)
class Change:
    """A ratio in two runs.

    Attributes:
      case, ratio: of which row and column.
      old, new: None where the run does not have it.
      verdict: "fell", "rose", "same", "gone" or "added".
    """

    case: str
    ratio: str
    old: Spread | None
    new: Spread | None
    verdict: str


def compare(old: Record, new: Record, tolerance: float = 0.05) -> list[Change]:
    """Returns the change of every ratio that either record has, in the order of the old one.

    Args:
      old, new: of the same benchmark.
      tolerance: relative difference of the medians that counts as none.

    Raises:
      ValueError: the records are of different benchmarks.
    """
    if old.benchmark != new.benchmark:
        raise ValueError(f"{old.benchmark} and {new.benchmark} are different benchmarks")
    before, after = _ratios(old), _ratios(new)
    return [
        Change(*key, before.get(key), after.get(key), _verdict(before, after, key, tolerance))
        for key in dict.fromkeys([*before, *after])
    ]


def _ratios(record: Record) -> dict[tuple[str, str], Spread]:
    return {(row.key, name): ratio for row in record.rows for name, ratio in row.ratios.items()}


def _verdict(before: dict, after: dict, key: tuple[str, str], tolerance: float) -> str:
    if key not in after:
        return "gone"
    if key not in before:
        return "added"
    old, new = before[key], after[key]
    if new.high < old.low and new.median < old.median * (1 - tolerance):
        return "fell"
    if new.low > old.high and new.median > old.median * (1 + tolerance):
        return "rose"
    return "same"


def main() -> int:
    """Compares the two files of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--tolerance", type=float, default=0.05, help="difference of medians that counts as none"
    )
    parser.add_argument("--all", action="store_true", help="show what stayed the same, too")
    args = parser.parse_args()
    try:
        changes = compare(Record.read(args.old), Record.read(args.new), args.tolerance)
    except (OSError, ValueError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    shown = [change for change in changes if args.all or change.verdict != "same"]
    if shown:
        table = Table("case", "ratio", "old", "new", "verdict")
        for c in shown:
            table.add_row(c.case, c.ratio, str(c.old or ""), str(c.new or ""), c.verdict)
        Console().print(table)
    fell = sum(change.verdict == "fell" for change in changes)
    print(f"{len(changes)} ratios: {fell} fell, {len(changes) - len(shown)} not shown")
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main())
