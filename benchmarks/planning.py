"""Time and memory of planning against the bare spectra it needs.

For every site, planning (all SVD candidates with their errors, default options) and
the baseline (one scipy.linalg.svd, economy size and in the kernel's own precision,
for each unfolding that planning looks at) run right after each other, so that both
see the same machine. Kernels are random: neither side's time depends on the values.

  python benchmarks/planning.py --threads 2 --json
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import scipy.linalg

from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.decompositions.unfolding import distinct_schemes, unfold
from tfapprox.selection.alds import select_alds
from tfapprox.selection.problem import Budget, CandidateTable, Problem

Layer = tuple[tuple[int, int, int, int], int, int]
"""Kernel shape [H, W, I, O], input size and stride."""


def main() -> None:
    """Runs the workloads asked for and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=list(_RUNS), default=list(_RUNS))
    parser.add_argument("--threads", type=int, default=2, help="threads of BLAS")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    args = parser.parse_args()
    _start_again_with_threads(args.threads)
    results: dict[str, Any] = {"threads": args.threads, "load": os.getloadavg()[0]}
    for name in args.workloads:
        results[name] = _RUNS[name]()
        if not args.json:
            print(f"{name}:", *(f"{k}: {v}" for k, v in results[name].items()), sep="\n  ")
    if args.json:
        print(json.dumps(results, indent=1))


def run_resnet50() -> dict:
    """Returns times and memory of planning keras.applications.ResNet50."""
    sites = make_sites(resnet50_layers())
    memory, tables = measure_memory(sites)
    return {**memory, **measure_time(sites), **measure_selection(tables)}


def run_growing() -> dict:
    """Returns planning time per layer for more and more equal layers, to show linearity."""
    milliseconds = {}
    for count in (8, 16, 32, 64):
        sites = make_sites([((3, 3, 128, 128), 14, 1)] * count)
        seconds = measure_time(sites, baseline=False)["planning_processor_seconds"]
        milliseconds[count] = round(1e3 * seconds / count, 1)
    return {"planning_processor_ms_per_layer": milliseconds}


def run_large_dense() -> dict:
    """Returns time and memory for VGG16's first dense layer."""
    sites = make_sites([((1, 1, 25088, 4096), 1, 1)])
    return {**measure_memory(sites)[0], **measure_time(sites)}


_RUNS: dict[str, Callable[[], dict]] = {
    "resnet50": run_resnet50,
    "growing": run_growing,
    "large_dense": run_large_dense,
}


def resnet50_layers() -> Iterator[Layer]:
    """Yields the linear layers of ResNet50."""
    yield (7, 7, 3, 64), 230, 2
    channels, size = 64, 56
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            yield (1, 1, channels, width), size, stride
            if block == 0:
                yield (1, 1, channels, 4 * width), size, stride
            size //= stride
            yield (3, 3, width, width), size, 1
            yield (1, 1, width, 4 * width), size, 1
            channels = 4 * width
    yield (1, 1, channels, 1000), 1, 1


def make_sites(layers: Iterable[Layer]) -> list[Site]:
    """Returns sites with random float32 kernels."""
    rng = np.random.default_rng(0)
    sites = []
    for number, (shape, size, stride) in enumerate(layers):
        kernel = rng.standard_normal(shape, np.float32)
        geometry = Geometry((stride, stride), (1, 1), "SAME", (size, size))
        sites.append(Site(f"layer{number}", "conv2d", kernel, (geometry,)))
    return sites


def measure_time(sites: list[Site], baseline: bool = True) -> dict:
    """Returns wall and processor seconds of planning and, if asked for, of the bare spectra."""
    options, cache, svd = CandidateOptions(), SpectrumCache(), SvdDecomposition()
    planning, spectra = _Stopwatch(), _Stopwatch()
    for site in sites:
        with planning:
            svd.candidates(site, "operator", options, cache)
        for scheme in distinct_schemes(site.kernel_size) if baseline else ():
            matrix = unfold(site.kernel, scheme)[0]
            with spectra:
                scipy.linalg.svd(matrix, full_matrices=False)
    if not baseline:
        return planning.report("planning")
    return {
        **planning.report("planning"),
        **spectra.report("scipy_svd"),
        "ratio": round(planning.wall / spectra.wall, 2),
        "ratio_processor": round(planning.processor / spectra.processor, 2),
    }


def measure_memory(sites: list[Site]) -> tuple[dict, list[CandidateTable]]:
    """Returns the peak of planning above what was there before, per byte of the kernels."""
    options, cache, svd = CandidateOptions(), SpectrumCache(), SvdDecomposition()
    kernels, before = sum(site.kernel.nbytes for site in sites), _resident_bytes()
    _reset_peak()
    tables = [svd.candidates(site, "operator", options, cache) for site in sites]
    extra = _peak_bytes() - before
    result = {
        "kernel_mib": round(kernels / 2**20, 1),
        "peak_over_kernels": round(extra / kernels, 2),
    }
    return result, tables


def measure_selection(tables: list[CandidateTable]) -> dict:
    """Returns the milliseconds of the ALDS selector alone, half the MACs kept."""
    watch = _Stopwatch()
    with watch:
        select_alds(Problem(tuple(tables), Budget("macs", keep=0.5)))
    return {"rows": sum(map(len, tables)), "selection_ms": round(1e3 * watch.wall, 2)}


class _Stopwatch:
    """Adds up wall and processor time of its `with` blocks, in seconds."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def __exit__(self, *exc_info: object) -> None:
        self.wall += time.perf_counter() - self._started[0]
        self.processor += time.process_time() - self._started[1]

    def report(self, name: str) -> dict:
        return {
            f"{name}_seconds": round(self.wall, 3),
            f"{name}_processor_seconds": round(self.processor, 3),
        }


def _start_again_with_threads(threads: int) -> None:
    """Restarts this program so that BLAS, which reads them once, uses so many threads."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    wanted = dict.fromkeys(names, str(threads))
    if {name: os.environ.get(name) for name in names} != wanted:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _reset_peak() -> None:
    """Makes the kernel forget the highest resident size so far (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_bytes() -> int:
    with open("/proc/self/status") as file:
        peak = next(line for line in file if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


if __name__ == "__main__":
    main()
