"""Threads of linear algebra: one for each of many small sites, all for one large one."""

import concurrent.futures
import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import scipy.linalg
from threadpoolctl import ThreadpoolController

from tfapprox.accounting.site import Site

# Threads of one product wait for each other in a busy loop. Where another process takes
# a core, a small problem then lasts a hundred times as long, and on a quiet machine its
# threads gain little; only from about this many rows and columns on do they pay.
_LARGE_SIDE = 2048
# Several sites at once take as many times the memory: a few of that size, or many small ones.
_MOST_WORKERS = 8

Result = TypeVar("Result")


def threads_for(site: Site) -> contextlib.AbstractContextManager:
    """Returns a context in which BLAS uses one thread, or its default for a large kernel."""
    return contextlib.nullcontext() if _is_large(site) else _one_thread()


def for_each_site(
    sites: Sequence[Site],
    work: Callable[[Site], Result],
    told: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """Returns the results in the order of the sites.

    Small ones are done side by side, one BLAS thread each; large ones, which BLAS can share
    out, one after the other.

    Args:
      sites: to work on.
      work: releases the interpreter in its linear algebra, and touches no other site.
      told: hears, in this thread, how many are done.

    Raises:
      Whatever `work` raises first.
    """
    results: dict[str, Result] = {}
    small = [site for site in sites if not _is_large(site)]
    told(0)
    with _one_thread(), concurrent.futures.ThreadPoolExecutor(workers()) as pool:
        waiting = {pool.submit(work, site): site.name for site in small}
        try:
            for future in concurrent.futures.as_completed(waiting):
                results[waiting[future]] = future.result()
                told(len(results))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for site in sites:
        if site.name not in results:
            results[site.name] = work(site)
            told(len(results))
    return [results[site.name] for site in sites]


def workers() -> int:
    """Returns how many sites are worked on at once: one a core, but not too many."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(_MOST_WORKERS, cores)


def _is_large(site: Site) -> bool:
    """Says whether the largest eigenproblem of the site is worth several threads."""
    height, width = site.kernel_size
    if site.weight is not None:  # then all taps together enter
        side = min(site.in_channels, site.out_channels) * height * width
    else:  # the shorter side of each unfolding: some taps on the left, the others on the right
        side = max(
            min(site.out_channels * left, site.in_channels * height * width // left)
            for left in (1, height, width, height * width)
        )
    return side >= _LARGE_SIDE


def _one_thread() -> contextlib.AbstractContextManager:
    return _controller().limit(limits=1, user_api="blas")


@functools.cache
def _controller() -> ThreadpoolController:
    # It sees the libraries loaded by now, so SciPy's own BLAS must be among them.
    assert scipy.linalg is not None
    return ThreadpoolController()
