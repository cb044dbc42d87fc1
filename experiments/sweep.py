"""Runs an experiment at every point of a grid of its flags; one table, plots with bands.

  python -m experiments.sweep --sweep_dir=DIR --experiment=cifar_alds --processes=4 \\
    --grid="network resnet20b vgg16" --grid="methods alds svd" --grid="seed 0 1 2" \\
    -- --dataset=cifar10 --mode=one_shot

What follows -- goes to every point. Each point is a process with a folder of its own. What
is finished is not done again, and what was interrupted goes on, as the experiments do. With
--ray=auto, and nothing else changed, points are spread over the machines of a Ray cluster
(`ray start`), which share DIR and the data and have the code at one path.

Networks that differ by the point's flag `network` have a plot each. Points that train the
same dense network train it each for itself: leave methods and ratios to one point (--methods
and --keeps after the --) where that costs more than it saves.
"""

import dataclasses
import importlib.util
import itertools
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags, logging
from rich.markdown import Markdown

from experiments.console import wide_console
from experiments.job_queue import Job, Pool, run_jobs
from tfapprox.errors import UserError
from tfapprox.training.trade_off import TITLES, TradeOff, plot, table_cells

Point = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What to run.

    Attributes:
      folder: shared by all machines.
      experiment: name of a binary in `experiments`, or of any module.
      grid: flag to values.
      arguments: of every point.
    """

    folder: pathlib.Path
    experiment: str
    grid: Mapping[str, Sequence[str]]
    arguments: tuple[str, ...] = ()

    def jobs(self) -> list[tuple[Point, Job]]:
        """Returns the points, the last flag's values next to each other, and their jobs."""
        module = self.experiment if "." in self.experiment else f"experiments.{self.experiment}"
        jobs: list[tuple[Point, Job]] = []
        for values in itertools.product(*self.grid.values()):
            point = dict(zip(self.grid, values, strict=True))
            name = ",".join(f"{flag}={value}" for flag, value in point.items()).replace("/", "_")
            folder = self.folder / (name or "point")
            own = [f"--{flag}={value}" for flag, value in point.items()]
            jobs.append(
                (point, Job(folder, module, (f"--model_dir={folder}", *self.arguments, *own)))
            )
        return jobs


def run_sweep(sweep: Sweep, pool: Pool) -> list[tuple[str, TradeOff]]:
    """Runs every point; writes sweep.json, sweep.md and a plot a network; returns the rows.

    Raises:
      UserError: points failed, after all others are done; names their logs.
    """
    jobs = sweep.jobs()
    sweep.folder.mkdir(parents=True, exist_ok=True)
    failed = run_jobs([job for _, job in jobs], pool)
    rows = [row for point, job in jobs for row in _rows(sweep, point, job.folder)]
    # Points may share what they compare with.
    rows = list({(network, r.method, r.seed, r.keep): (network, r) for network, r in rows}.values())
    _write(sweep, rows)
    if failed:
        logs = ", ".join(str(job.folder / "log.txt") for job in failed)
        raise UserError(f"{len(failed)} of {len(jobs)} points failed: see {logs}")
    return rows


def _rows(sweep: Sweep, point: Point, folder: pathlib.Path) -> list[tuple[str, TradeOff]]:
    """Returns (network, row) of what a point has left."""
    for name in ("trade_offs.json", "results.json"):
        if (folder / name).exists():
            body = json.loads((folder / name).read_text())
            break
    else:
        return []
    own = {
        k: v for k, v in point.items() if k not in ("network", "seed", "methods", "keep", "keeps")
    }
    words = " ".join(f"{flag}={value}" for flag, value in own.items())
    rows = [TradeOff(**row) for row in (body if isinstance(body, list) else body["rows"])]
    if words:
        # Whatever else is varied makes other methods, and other dense networks.
        rows = [dataclasses.replace(row, method=f"{row.method} {words}") for row in rows]
    return [(point.get("network", sweep.experiment), row) for row in rows]


def _write(sweep: Sweep, rows: Sequence[tuple[str, TradeOff]]) -> None:
    body = [{"network": network, **row.to_json()} for network, row in rows]
    (sweep.folder / "sweep.json").write_text(json.dumps(body, indent=1))
    (sweep.folder / "sweep.md").write_text(table(rows))
    for network in dict.fromkeys(network for network, _ in rows):
        own = [row for name, row in rows if name == network]
        plot(own, network, sweep.folder / f"{network}.png")


def table(rows: Sequence[tuple[str, TradeOff]]) -> str:
    """Returns one Markdown table of all networks: means and spreads over seeds."""
    titles = ("network", *TITLES)
    lines = [" | ".join(titles), " | ".join("---" for _ in titles)]
    for network in dict.fromkeys(network for network, _ in rows):
        own = [row for name, row in rows if name == network]
        lines += [" | ".join((network, *cells)) for cells in table_cells(own)]
    return "".join(f"| {line} |\n" for line in lines)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this binary."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("sweep_dir", "", "Where points and results go (required).", **own)
    flags.DEFINE_string("experiment", "cifar_alds", "A binary of `experiments`.", **own)
    flags.DEFINE_multi_string(
        "grid", [], "A flag of the experiment and its values, separated by blanks.", **own
    )
    flags.DEFINE_integer("processes", 0, "At a time; 0 is as many as there are cores.", **own)
    flags.DEFINE_integer("threads", 1, "TensorFlow's in each process.", **own)
    flags.DEFINE_string("ray", "", "Address of a Ray cluster, auto, or local; else none.", **own)


def sweep_from_flags(values: flags.FlagValues, rest: Sequence[str]) -> tuple[Sweep, Pool]:
    """Returns the sweep that the flags describe, and where to run it.

    Args:
      rest: what goes to every point.

    Raises:
      UserError: a flag is missing or not as it should be.
    """
    if not values.sweep_dir:
        raise UserError("--sweep_dir is required: it gets a folder a point, and the results")
    grid: dict[str, list[str]] = {}
    for line in values.grid:
        flag, *choices = line.split()
        if not choices or flag in grid or flag == "model_dir":
            raise UserError(
                f"--grid={line!r}: name a flag of the experiment, each once, and its values, "
                'e.g. --grid="seed 0 1 2"'
            )
        grid[flag] = choices
    name = values.experiment
    if "." not in name and importlib.util.find_spec(f"experiments.{name}") is None:
        raise UserError(f"--experiment={name}: there is no experiments/{name}.py")
    folder = pathlib.Path(values.sweep_dir).resolve()
    pool = Pool(values.processes, values.threads, values.ray)
    return Sweep(folder, values.experiment, grid, tuple(rest)), pool


def main(argv: Sequence[str]) -> int:
    """Runs the sweep that the flags describe; returns the exit status."""
    logging.set_verbosity(logging.INFO)
    try:
        sweep, pool = sweep_from_flags(flags.FLAGS, argv[1:])
        rows = run_sweep(sweep, pool)
    except UserError as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2
    wide_console().print(Markdown(table(rows)))
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: sys.exit(main(argv)))
