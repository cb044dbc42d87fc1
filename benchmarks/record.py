"""What a benchmark found: rows of numbers, kept as JSON and shown as Markdown."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfapprox.report.environment import collect_environment

Value = str | int | float | None


@dataclasses.dataclass(frozen=True)
class Spread:
    """A ratio of two things measured in turns; above 1 the first-named won.

    Attributes:
      median: over the rounds.
      low, high: quarter and three-quarter point of the rounds.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float] | np.ndarray) -> "Spread":
        low, median, high = (float(q) for q in np.percentile(ratios, [25, 50, 75]))
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclasses.dataclass(frozen=True)
class Row:
    """One case of a benchmark.

    Attributes:
      case: column -> what was run; tells rows apart.
      ratios: column -> what `compare` watches; more is better.
      values: column -> what is told besides.
    """

    case: Mapping[str, Value]
    ratios: Mapping[str, Spread] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Value] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.case.items())


@dataclasses.dataclass(frozen=True)
class Record:
    """One run of one benchmark.

    Attributes:
      benchmark: name of its module.
      title: one sentence: what was measured against what.
      settings: of the command line.
      environment: machine, versions and the load when it ended.
      rows: see `Row`.
      notes: what a reader should know.
    """

    benchmark: str
    title: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Writes JSON in one step, so that a reader never sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Reads what `write` wrote.

        Raises:
          ValueError: the file holds something else.
        """
        try:
            body = json.loads(path.read_text())
            rows = tuple(
                Row(r["case"], {k: Spread(**s) for k, s in r["ratios"].items()}, r["values"])
                for r in body.pop("rows")
            )
            return cls(rows=rows, **{**body, "notes": tuple(body["notes"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a benchmark's record: {error}") from error

    def to_markdown(self) -> str:
        """Returns a heading, the table and what it was measured on."""
        lines = [f"## {self.benchmark}", "", self.title, "", *_table(self.rows), ""]
        lines += [f"- {note}" for note in self.notes]
        lines += ["- " + _circumstances(self), ""]
        return "\n".join(lines)


def this_environment(threads: int | None = None) -> dict[str, Any]:
    """Returns machine, versions and load average of this moment."""
    known = dataclasses.asdict(collect_environment(threads))
    del known["seed"]
    return {**known, "load": round(os.getloadavg()[0], 1)}


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["Nothing was measured."]
    cells = [{**row.case, **row.values, **row.ratios} for row in rows]
    columns = list(dict.fromkeys(name for row in cells for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in cells:
        shown = (format_value(row.get(name)) for name in columns)
        lines.append("| " + " | ".join(shown) + " |")
    return lines


def format_value(value: Value | Spread) -> str:
    """Returns a cell of a table: three significant digits, nothing for None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|")


def _circumstances(record: Record) -> str:
    known, settings = record.environment, record.settings
    given = {name: value for name, value in settings.items() if value not in (None, False)}
    flags = " ".join(f"--{k}" if v is True else f"--{k} {v}" for k, v in given.items())
    return (
        f"{known['cores']} cores, {known['machine']}; TensorFlow {known['tensorflow']}, NumPy "
        f"{known['numpy']}, Python {known['python']}; load {known['load']}; `{flags}`"
    )
