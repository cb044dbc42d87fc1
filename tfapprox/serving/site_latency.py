"""Measured latency for the candidate tables of a model's sites, through a cache on disk."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.errors import UserError
from tfapprox.selection.latency_table import RelativeTime, add_latency, rows_to_measure
from tfapprox.selection.problem import CandidateTable, Configuration
from tfapprox.serving.latency import TimingOptions
from tfapprox.serving.latency_cache import LatencyCache, Machine, SiteTimes
from tfapprox.serving.workload import ChainForm, Workload, workloads

Build = Callable[[Site, Configuration], Factorization]


@dataclasses.dataclass(frozen=True)
class SiteTimingOptions:
    """How sites are timed.

    Attributes:
      batch_size: examples in a call.
      threads: of each of TensorFlow's two pools, or its default.
      points: rows measured of every family of rows that differ in rank only; the
        others are interpolated (see `selection.latency_table`).
      timing: of each group of up to eight chains and the dense operation.
    """

    batch_size: int = 1
    threads: int | None = None
    points: int = 5
    timing: TimingOptions = TimingOptions(
        warm_up_rounds=2, min_rounds=9, min_seconds=0.4, max_rounds=200
    )

    def __post_init__(self):
        if self.batch_size < 1:
            raise UserError(f"batch size must be at least 1, got {self.batch_size}")
        if self.threads is not None and not 1 <= self.threads <= 127:
            raise UserError(f"threads must be 1 to 127, got {self.threads}")


@dataclasses.dataclass
class _Job:
    """A workload with the chains that are not in the cache."""

    workload: Workload
    chains: list[ChainForm]


def measure_sites(
    sites: Sequence[Site],
    tables: Sequence[CandidateTable],
    build: Build,
    options: SiteTimingOptions = SiteTimingOptions(),
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
    cache: LatencyCache | None = None,
) -> list[CandidateTable]:
    """Returns the tables with a column for latency at the options' batch size.

    Sites of equal shape are timed once. What is not in the cache is timed in a
    process of its own, each chain in turns with the dense operation it would replace,
    and kept as soon as it is there: a run that is interrupted goes on where it was.

    Args:
      sites, tables: in the same order.
      build: makes the factorization of a row; only its shape matters here.
      options: see `SiteTimingOptions`.
      progress: told of every workload.
      cache: by default that of this machine.

    Raises:
      UserError: the cache is no such file.
      RuntimeError: the timing process ended early.
    """
    cache = cache or LatencyCache(Machine.here(options.threads))
    plans = [
        _Plan.of(site, table, build, options) for site, table in zip(sites, tables, strict=True)
    ]
    jobs: dict[str, _Job] = {}
    for plan in plans:
        for workload in plan.uses:
            _add_job(jobs, workload, list(plan.chains.values()), cache)
    missing = [job for job in jobs.values() if job.chains]
    progress("timing", 0, len(missing))
    for done, (job, times) in enumerate(_run(missing, options), 1):
        cache.add(job.workload.key, times)
        progress("timing", done, len(missing))
    return [plan.filled(cache) for plan in plans]


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """What to measure for one site.

    Attributes:
      table: of the site.
      uses: see `workloads`.
      chains: row -> form, for the rows to measure.
    """

    table: CandidateTable
    uses: Mapping[Workload, int]
    chains: Mapping[int, ChainForm]

    @classmethod
    def of(
        cls, site: Site, table: CandidateTable, build: Build, options: SiteTimingOptions
    ) -> "_Plan":
        chains = {
            row: ChainForm.of(build(site, table.configurations[row]))
            for row in rows_to_measure(table, options.points)
        }
        return cls(table, workloads(site, options.batch_size), chains)

    def filled(self, cache: LatencyCache) -> CandidateTable:
        """Returns the table with latencies summed over the uses of the kernel."""
        if not self.chains:
            return add_latency(self.table, 0.0, {})
        times = [(cache.times(use.key), count) for use, count in self.uses.items()]
        dense = sum(count * known.dense for known, count in times)
        measured = {}
        for row, chain in self.chains.items():
            shares = [
                (count * known.dense / dense, known.chains[chain.key]) for known, count in times
            ]
            measured[row] = RelativeTime(
                sum(share * time.ratio for share, time in shares),
                sum(share * time.noise for share, time in shares),
            )
        return add_latency(self.table, dense, measured)


def _add_job(
    jobs: dict[str, _Job], workload: Workload, chains: Sequence[ChainForm], cache: LatencyCache
) -> None:
    known = cache.times(workload.key).chains
    job = jobs.setdefault(workload.key, _Job(workload, []))
    job.chains += [c for c in chains if c.key not in known and c not in job.chains]


def _run(jobs: Sequence[_Job], options: SiteTimingOptions) -> Iterator[tuple[_Job, SiteTimes]]:
    """Yields each job with its times as the child process delivers them."""
    if not jobs:
        return
    request = {
        "threads": options.threads,
        "options": dataclasses.asdict(options.timing),
        "jobs": [
            {
                "workload": job.workload.to_json(),
                "chains": [chain.to_json() for chain in job.chains],
            }
            for job in jobs
        ],
    }
    with tempfile.TemporaryDirectory(prefix="tfapprox-timing-") as folder:
        path, errors = Path(folder, "request.json"), Path(folder, "errors")
        path.write_text(json.dumps(request))
        with errors.open("w") as stream, _start(path, stream) as child:
            try:
                assert child.stdout is not None
                for job, line in zip(jobs, child.stdout, strict=False):
                    yield job, _times(job, json.loads(line))
                if child.wait() != 0:
                    last = (errors.read_text().strip().splitlines() or ["no message"])[-1]
                    raise RuntimeError(f"the timing process ended with {child.returncode}: {last}")
            finally:
                child.kill()


def _start(request: Path, errors) -> subprocess.Popen:
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    command = [sys.executable, "-m", "tfapprox.serving.site_timing", str(request)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
    )


def _times(job: _Job, answer: Mapping) -> SiteTimes:
    times = [RelativeTime(*pair) for pair in answer["chains"]]
    return SiteTimes(answer["dense"], {c.key: t for c, t in zip(job.chains, times, strict=True)})
