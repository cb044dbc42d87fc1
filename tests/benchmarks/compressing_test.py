import numpy as np
import pytest

from benchmarks.compressing import WAYS, Setting, Workplace, _Shapes
from benchmarks.networks import QUICK
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.planning import cost_after
from tfapprox.registry import SELECTORS
from tfapprox.serving.workload import ChainForm


@pytest.mark.parametrize("shape", [(3, 3, 16, 24), (1, 1, 32, 16), (1, 1, 16, 32)])
def test_shapes_without_spectra_are_those_that_are_timed_and_written(shape):
    kernel = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    site, svd = Site("conv", "conv2d", kernel, (Geometry(input_size=(8, 8)),)), SvdDecomposition()
    real, shapes = SpectrumCache(), _Shapes()
    offered = svd.candidates(site, "frobenius", CandidateOptions(), real)
    guessed = svd.candidates(site, "frobenius", CandidateOptions(), shapes)
    assert guessed.configurations == offered.configurations
    for row in offered.configurations:
        expected = ChainForm.of(svd.factorize(site, row, real))
        assert ChainForm.of(svd.factorize(site, row, shapes)) == expected


def test_every_way_and_keep_has_a_model_of_its_own(tmp_path):
    place = Workplace(tmp_path, "VGG16", QUICK, Setting(8, 2))
    names = [place.model(way, keep).name for way in WAYS for keep in (0.5, 0.25)]
    assert len(set(names)) == len(names)
    assert all(not place.model(way, 0.5).suffix for way in WAYS)


def test_only_ways_that_look_at_the_clock_depend_on_what_candidates_are_timed_at(tmp_path):
    one, other = (Workplace(tmp_path, "VGG16", QUICK, s) for s in (Setting(1, 1), Setting(8, 2)))
    same = [way for way in WAYS if one.model(way, 0.5) == other.model(way, 0.5)]
    assert same == [name for name in sorted(SELECTORS) if name != "latency"]


def test_every_selector_has_a_way():
    assert {settings["selector"] for settings in WAYS.values()} == set(SELECTORS)


def test_greedy_and_evbmf_meet_a_budget_on_random_weights(tmp_path):
    place = Workplace(tmp_path, "LSTM", QUICK, Setting(1, 1))
    for way in ("evbmf", "greedy"):
        for step in ("tables", "plan"):
            place.prepare(step, [way], [0.5])
        plan = place._plan(way, 0.5)
        assert cost_after(place.opened.inspection, plan).macs <= 0.5 * place.opened.inspection.macs
