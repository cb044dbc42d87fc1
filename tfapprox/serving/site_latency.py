"""Measured latency for the candidate tables of a model's sites, through a cache on disk."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.errors import UserError
from tfapprox.selection.latency_table import RelativeTime, add_latency, rows_to_measure
from tfapprox.selection.problem import CandidateTable, Configuration
from tfapprox.serving.latency import TimingOptions
from tfapprox.serving.latency_cache import LatencyCache, Machine, Times
from tfapprox.serving.timing_process import timing_answers
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
    dense: Mapping[str, float],
    options: SiteTimingOptions,
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
      dense: nanoseconds of the sites' own operations, by `Workload.key`.
      options: see `SiteTimingOptions`.
      progress: told of every workload.
      cache: by default that of this machine.

    Raises:
      UserError: the cache is no such file.
      RuntimeError: the timing process ended early.
    """
    cache = cache or LatencyCache(Machine.here(options.threads))
    form = _Forms(build)
    plans = [
        _Plan.of(site, table, form, options) for site, table in zip(sites, tables, strict=True)
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
    return [plan.filled(cache, dense) for plan in plans]


class _Forms:
    """The forms of factorizations: built once for all kernels of one shape.

    Deep networks repeat few shapes many times, and building takes products of whole
    kernels.
    """

    def __init__(self, build: Build):
        self._build = build
        self._known: dict[tuple, ChainForm] = {}

    def of(self, site: Site, choice: Configuration) -> ChainForm:
        key = (site.kernel.shape, site.kernel.dtype.name, str(choice))
        if key not in self._known:
            self._known[key] = ChainForm.of(self._build(site, choice))
        return self._known[key]


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
        cls, site: Site, table: CandidateTable, form: "_Forms", options: SiteTimingOptions
    ) -> "_Plan":
        chains = {
            row: form.of(site, table.configurations[row])
            for row in rows_to_measure(table, options.points)
        }
        return cls(table, workloads(site, options.batch_size), chains)

    def filled(self, cache: LatencyCache, dense: Mapping[str, float]) -> CandidateTable:
        """Returns the table with latencies summed over the uses of the kernel."""
        times = {use.key: count * dense[use.key] for use, count in self.uses.items()}
        whole = sum(times.values())
        measured = {}
        for row, chain in self.chains.items():
            known = [(time / whole, cache.times(key)[chain.key]) for key, time in times.items()]
            measured[row] = RelativeTime(
                sum(share * time.ratio for share, time in known),
                sum(share * time.noise for share, time in known),
            )
        return add_latency(self.table, whole, measured)


def _add_job(
    jobs: dict[str, _Job], workload: Workload, chains: Sequence[ChainForm], cache: LatencyCache
) -> None:
    known = cache.times(workload.key)
    job = jobs.setdefault(workload.key, _Job(workload, []))
    job.chains += [c for c in chains if c.key not in known and c not in job.chains]


def _run(jobs: Sequence[_Job], options: SiteTimingOptions) -> Iterator[tuple[_Job, Times]]:
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
    for job, answer in zip(jobs, timing_answers(request), strict=True):
        times = (RelativeTime(*pair) for pair in answer["chains"])
        yield job, {chain.key: time for chain, time in zip(job.chains, times, strict=True)}
