"""Tables get their latency column from the cache, and the cache from a timing process."""

import numpy as np
import pytest

from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.errors import UserError
from tfapprox.serving import site_latency
from tfapprox.serving.latency import TimingOptions
from tfapprox.serving.latency_cache import LatencyCache, Machine
from tfapprox.serving.site_latency import SiteTimingOptions, measure_sites
from tfapprox.serving.workload import workloads

MACHINE = Machine("processor", 2, 1, "2.21.0")
QUICK = TimingOptions(warm_up_rounds=1, min_rounds=2, min_seconds=0, max_rounds=2)
OPTIONS = SiteTimingOptions(batch_size=2, threads=1, points=2, timing=QUICK)
SPECTRA, SVD = SpectrumCache(), SvdDecomposition()


def conv(name, uses=1, out=16):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 16, out)).astype(np.float32)
    return Site(name, "conv2d", kernel, (Geometry(padding="SAME", input_size=(6, 6)),) * uses)


def dense(name):
    kernel = np.random.default_rng(1).standard_normal((1, 1, 64, 64)).astype(np.float32)
    return Site(name, "dense", kernel)


def measure(sites, cache, options=OPTIONS, progress=lambda *args: None):
    tables = [SVD.candidates(s, "frobenius", CandidateOptions(), SPECTRA) for s in sites]
    times = {use.key: 1e6 for site in sites for use in workloads(site, options.batch_size)}
    return measure_sites(
        sites, tables, lambda s, c: SVD.factorize(s, c, SPECTRA), times, options, progress, cache
    )


@pytest.fixture
def timed(monkeypatch):
    """Stands in for the timing process: every chain takes half as long; counts its jobs."""
    requests = []

    def answers(request):
        for job in request["jobs"]:
            requests.append(job)
            yield {"chains": [(0.5, 0.01)] * len(job["chains"])}

    monkeypatch.setattr(site_latency, "timing_answers", answers)
    return requests


def test_sites_of_one_shape_are_timed_once_and_never_again(timed, tmp_path):
    steps = []
    sites = [conv("a"), conv("b"), conv("wider", out=32)]
    first = measure(sites, LatencyCache(MACHINE, tmp_path), progress=lambda *s: steps.append(s))
    assert len(timed) == 2
    assert steps == [("timing", 0, 2), ("timing", 1, 2), ("timing", 2, 2)]
    second = measure(sites, LatencyCache(MACHINE, tmp_path))
    assert len(timed) == 2
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.cost["latency"], other.cost["latency"])


def test_every_row_that_saves_macs_gets_its_share_of_the_dense_time(timed, tmp_path):
    (table,) = measure([conv("a", uses=3)], LatencyCache(MACHINE, tmp_path))
    saves = table.cost["macs"] < table.dense.macs
    assert saves.any() and table.dense.latency == 3_000_000
    assert set(table.cost["latency"][saves]) == {1_500_000}


def test_an_interrupted_run_goes_on_where_it_was(timed, tmp_path):
    def interrupt(phase, done, total):
        if done == 1:
            raise KeyboardInterrupt

    sites = [conv("a"), conv("wider", out=32)]
    with pytest.raises(KeyboardInterrupt):
        measure(sites, LatencyCache(MACHINE, tmp_path), progress=interrupt)
    done = len(timed)
    measure(sites, LatencyCache(MACHINE, tmp_path))
    assert done == 1 and len(timed) == 2


def test_another_batch_size_is_timed_anew(timed, tmp_path):
    measure([conv("a")], LatencyCache(MACHINE, tmp_path))
    other = SiteTimingOptions(batch_size=3, threads=1, points=2, timing=QUICK)
    measure([conv("a")], LatencyCache(MACHINE, tmp_path), other)
    assert len(timed) == 2


def test_a_process_of_its_own_times_convolutions_and_products(tmp_path):
    tables = measure([conv("a"), dense("product")], LatencyCache(MACHINE, tmp_path))
    cache = LatencyCache(MACHINE, tmp_path)
    for site, table in zip([conv("a"), dense("product")], tables, strict=True):
        (use,) = workloads(site, 2)
        times = cache.times(use.key)
        assert times and all(time.ratio > 0 and time.noise >= 0 for time in times.values())
        assert np.all(table.cost["latency"] >= 1)


def test_impossible_settings_are_refused():
    for wrong in ({"batch_size": 0}, {"threads": 0}):
        with pytest.raises(UserError):
            SiteTimingOptions(**wrong)


def test_stages_are_built_once_for_all_sites_of_one_shape(timed, tmp_path):
    sites, built = [conv("a"), conv("b"), conv("wider", out=32)], []
    tables = [SVD.candidates(s, "frobenius", CandidateOptions(), SPECTRA) for s in sites]
    times = {use.key: 1e6 for site in sites for use in workloads(site, OPTIONS.batch_size)}

    def build(site, choice):
        built.append((site.kernel.shape, str(choice)))
        return SVD.factorize(site, choice, SPECTRA)

    measure_sites(sites, tables, build, times, OPTIONS, cache=LatencyCache(MACHINE, tmp_path))
    assert len(built) == len(set(built))
