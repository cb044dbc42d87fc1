"""Time of planning ALDS over all schemes and numbers of slices, against the SVDs it needs."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import scipy.linalg
from threadpoolctl import threadpool_limits

from benchmarks.record import Row, Value
from tfapprox.accounting.site import Site
from tfapprox.decompositions.blas import for_each_site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.decompositions.unfolding import distinct_schemes, unfold
from tfapprox.selection.alds import select_alds
from tfapprox.selection.problem import Budget, CandidateTable, Problem


def alds_rows(name: str, sites: Sequence[Site], workers: Sequence[int]) -> list[Row]:
    """Returns a row for each number of workers: the whole of ALDS, from kernels to ranks.

    The SVDs are one scipy.linalg.svd, economy size and float32, for every slice of every
    unfolding that planning looks at, one after the other by one thread. One site of each
    shape is decomposed, and counts as often as there are sites of that shape.
    """
    options = CandidateOptions(slices=all_divisors(sites))
    bare = bare_svd_seconds(sites, options)
    rows = []
    for count in workers:
        with cores(count):
            wall, processor = time.perf_counter(), time.process_time()
            tables = _plan(sites, options)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
        values: dict[str, Value] = {
            "candidates": sum(map(len, tables)),
            "planning, s": wall,
            "planning, CPU s": processor,
            "bare SVDs, s": bare,
            "planning over SVDs": wall / bare,
        }
        what = f"{name}, ALDS over schemes 0-3 and all divisors"
        case: dict[str, Value] = {"network": what, "workers": count}
        rows.append(Row(case, {}, values))
    return rows


def _plan(sites: Sequence[Site], options: CandidateOptions) -> list[CandidateTable]:
    cache, svd = SpectrumCache(), SvdDecomposition()

    def offer(site: Site) -> CandidateTable:
        table = svd.candidates(site, "operator", options, cache)
        cache.trim(site, table.configurations)
        return table

    tables = for_each_site(sites, offer)
    select_alds(Problem(tuple(tables), Budget("macs", keep=0.5)))
    return tables


def all_divisors(sites: Sequence[Site]) -> tuple[int, ...]:
    """Returns every number of slices that divides the input channels of some site."""
    channels = {site.in_channels for site in sites}
    return tuple(k for k in range(1, max(channels) + 1) if any(c % k == 0 for c in channels))


def bare_svd_seconds(sites: Sequence[Site], options: CandidateOptions) -> float:
    """Returns the processor seconds of all the SVDs; see `alds_rows`."""
    counts = Counter(site.kernel.shape for site in sites)
    seconds = 0.0
    for shape, count in counts.items():
        site = next(site for site in sites if site.kernel.shape == shape)
        with threadpool_limits(1, "blas"):
            started = time.process_time()
            for scheme in distinct_schemes(site.kernel_size, options.schemes):
                for slices in options.slices:
                    if site.in_channels % slices == 0:
                        for matrix in unfold(site.kernel, scheme, slices):
                            scipy.linalg.svd(matrix, full_matrices=False)
            seconds += count * (time.process_time() - started)
    return seconds


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Lets this process use so many of its cores inside the block (Linux).

    Planning starts a worker for each core that it finds.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(allowed)[:count]))
    try:
        with threadpool_limits(count, "blas"):
            yield
    finally:
        os.sched_setaffinity(0, allowed)
