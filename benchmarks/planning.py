"""Time of planning against the bare spectra it needs, and of Tucker-2 against tensorly.

For every site, planning (all SVD candidates with their errors, default options) and the
baseline (one scipy.linalg.svd, economy size and in the kernel's own precision, for each
unfolding that planning looks at) run right after each other, so that both see the same
machine. Kernels are random: neither side's time depends on the values. "tucker2" fits one
pair of ranks, half of the channels, here and by tensorly's partial_tucker. "alds" is the whole
of ALDS over schemes 0-3 and all divisors k, by one worker and by two; "calibration" is a batch
of calibration data against a forward pass and the Gram products.

  python -m benchmarks.planning --threads 2
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg

from benchmarks.alds_planning import alds_rows
from benchmarks.calibrating import calibration_row
from benchmarks.command import make_parser, run, say
from benchmarks.peers.environment import Peer, PeerError
from benchmarks.random_sites import make_sites, resnet50_layers, vgg16_layers
from benchmarks.record import Row, Spread
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.decompositions.tucker import TuckerDecomposition
from tfapprox.decompositions.unfolding import distinct_schemes, unfold
from tfapprox.selection.alds import select_alds
from tfapprox.selection.problem import Budget, CandidateTable, Configuration, Problem


def main() -> int:
    """Measures what the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--workloads", default=",".join(_RUNS), help="comma-separated")
    threads = parser.parse_known_args()[0].threads
    if threads:
        _start_again_with_threads(threads)
    return run(parser, "planning", measure)


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns the rows of the workloads asked for."""
    rows: list[Row] = []
    notes: list[str] = []
    for name in ("growing", "alds", "tucker2") if args.quick else args.workloads.split(","):
        say(f"planning: {name}")
        try:
            rows += _RUNS[name](args)
        except PeerError as error:
            notes.append(f"tensorly was not measured: {error}")
    return rows, notes


def run_resnet50(args: argparse.Namespace) -> list[Row]:
    """Returns times and memory of planning keras.applications.ResNet50."""
    return [_plan_network("ResNet50", make_sites(resnet50_layers()), not args.quick)]


def run_vgg16(args: argparse.Namespace) -> list[Row]:
    """Returns times and memory of planning VGG16, its dense layer of 102M parameters included."""
    return [_plan_network("VGG16", make_sites(vgg16_layers()), not args.quick)]


def run_growing(args: argparse.Namespace) -> list[Row]:
    """Returns planning time per layer for more and more equal layers, to show linearity."""
    rows = []
    for count in (4, 8) if args.quick else (8, 16, 32, 64):
        sites = make_sites([((3, 3, 128, 128), 14, 1)] * count)
        planning, _, _ = _time_planning(sites, baseline=False)
        per_layer = 1e3 * planning.processor / count
        rows.append(
            Row({"network": f"{count} layers of 3x3x128x128"}, {}, {"CPU ms a layer": per_layer})
        )
    return rows


def run_tucker2(args: argparse.Namespace) -> list[Row]:
    """Returns the time of one Tucker-2 fit against tensorly's, kernel by kernel."""
    shapes = [(3, 3, 128, 128), (3, 3, 256, 256)] + [(3, 3, 512, 512)] * (not args.quick)
    with Peer("tensorly_factors", args.threads) as peer:
        return [_compare_tucker(peer, shape, 3 if args.quick else 7) for shape in shapes]


def run_alds(args: argparse.Namespace) -> list[Row]:
    """Returns the time of all of ALDS, with its sites one after the other and side by side."""
    if args.quick:
        return alds_rows("3x3x64x64", make_sites([((3, 3, 64, 64), 14, 1)] * 2), (1, 2))
    return alds_rows("ResNet50", make_sites(resnet50_layers()), (2, 1))


def run_calibration(args: argparse.Namespace) -> list[Row]:
    """Returns the time of calibrating against what it can't do without."""
    return [calibration_row("ResNet50", 64 if args.quick else 224, 1 if args.quick else 5)]


_RUNS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "resnet50": run_resnet50,
    "vgg16": run_vgg16,
    "growing": run_growing,
    "alds": run_alds,
    "calibration": run_calibration,
    "tucker2": run_tucker2,
}


def _plan_network(name: str, sites: list[Site], baseline: bool) -> Row:
    memory, tables = measure_memory(sites)
    planning, spectra, ratios = _time_planning(sites, baseline)
    values = {
        **memory,
        "planning, s": planning.wall,
        "bare SVDs, s": spectra.wall,
        "planning over SVDs": planning.wall / spectra.wall,
        **measure_selection(tables),
    }
    return Row({"network": name}, {"SVDs over planning, by layer": Spread.of(ratios)}, values)


def _compare_tucker(peer: Peer, shape: tuple[int, int, int, int], rounds: int) -> Row:
    (site,) = make_sites([(shape, 14, 1)])
    ranks = shape[2] // 2, shape[3] // 2
    configuration = Configuration("tucker2", dict(zip(("rank_in", "rank_out"), ranks, strict=True)))
    ratios, errors = [], {}
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, site.kernel)
        for _ in range(rounds):
            watch = _Stopwatch()
            with watch:
                built = TuckerDecomposition().factorize(site, configuration, SpectrumCache())
            answer = peer.ask(method="tucker2", kernel=file.name, ranks=ranks)
            ratios.append(answer["seconds"] / watch.wall)
            errors["error"] = _error(site.kernel, built.reconstruct())
            errors["error by tensorly"] = answer["error"]
    name = f"tucker2 of {'x'.join(map(str, shape))}"
    return Row({"network": name}, {"tensorly over ours": Spread.of(ratios)}, errors)


def _error(kernel: np.ndarray, approximation: np.ndarray) -> float:
    return float(np.linalg.norm(kernel - approximation) / np.linalg.norm(kernel))


def _time_planning(
    sites: list[Site], baseline: bool = True
) -> tuple["_Stopwatch", "_Stopwatch", list[float]]:
    """Returns the times of planning and of the bare spectra, and their ratio layer by layer."""
    options, cache, svd = CandidateOptions(), SpectrumCache(), SvdDecomposition()
    planning, spectra, ratios = _Stopwatch(), _Stopwatch(), []
    for site in sites:
        before = planning.wall, spectra.wall
        with planning:
            svd.candidates(site, "operator", options, cache)
        for scheme in distinct_schemes(site.kernel_size) if baseline else ():
            matrix = unfold(site.kernel, scheme)[0]
            with spectra:
                scipy.linalg.svd(matrix, full_matrices=False)
        ratios.append((spectra.wall - before[1]) / (planning.wall - before[0]))
    return planning, spectra, ratios


def measure_memory(sites: list[Site]) -> tuple[dict, list[CandidateTable]]:
    """Returns the peak of planning above what was there before, per byte of the kernels."""
    options, cache, svd = CandidateOptions(), SpectrumCache(), SvdDecomposition()
    kernels, before = sum(site.kernel.nbytes for site in sites), _resident_bytes()
    _reset_peak()
    tables = [svd.candidates(site, "operator", options, cache) for site in sites]
    extra = _peak_bytes() - before
    result = {
        "kernels, MiB": round(kernels / 2**20),
        "peak over kernels": round(extra / kernels, 2),
    }
    return result, tables


def measure_selection(tables: list[CandidateTable]) -> dict:
    """Returns the milliseconds of the ALDS selector alone, half the MACs kept."""
    watch = _Stopwatch()
    with watch:
        select_alds(Problem(tuple(tables), Budget("macs", keep=0.5)))
    return {"candidates": sum(map(len, tables)), "selection, ms": 1e3 * watch.wall}


class _Stopwatch:
    """Adds up wall and processor time of its `with` blocks, in seconds."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def __exit__(self, *exc_info: object) -> None:
        self.wall += time.perf_counter() - self._started[0]
        self.processor += time.process_time() - self._started[1]


def _start_again_with_threads(threads: int) -> None:
    """Restarts this program so that BLAS, which reads them once, uses so many threads."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    wanted = dict.fromkeys(names, str(threads))
    if {name: os.environ.get(name) for name in names} != wanted:
        command = [sys.executable, "-m", "benchmarks.planning", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **wanted})


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
    sys.exit(main())
