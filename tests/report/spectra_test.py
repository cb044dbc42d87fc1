"""Tests of the spectra in a report."""

import numpy as np

from tfapprox.accounting.site import Site
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.report.plots import SPECTRUM_HEIGHT, SPECTRUM_WIDTH, plot_spectrum
from tfapprox.report.spectra import SiteSpectrum, collect_spectra
from tfapprox.rewriters.inspection import Inspection
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.selection.problem import Configuration


def test_spectra_are_those_of_the_chosen_scheme_and_none_is_computed_anew():
    rng = np.random.default_rng(0)
    kernels = {name: rng.standard_normal((1, 3, 100, 200)) for name in ("a", "b", "unseen")}
    sites = {name: Site(name, "conv2d", kernel) for name, kernel in kernels.items()}
    cache = SpectrumCache()
    cache.spectrum(sites["a"], 1, 2)
    cache.spectrum(sites["b"], 0, 1)
    choice = Configuration("svd", {"scheme": 1, "slices": 2, "rank": 5})
    before = sites["a"].cost
    verdict = Verdict("a", "conv2d", (1, 3, 100, 200), choice, "", 0.1, before, before)
    inspection = Inspection(tuple(sites.values()), (), 0, 0)
    a, b = collect_spectra(inspection, Plan((verdict,)), cache)
    assert (a.site, a.scheme, a.rank) == ("a", 1, 5)
    assert (b.site, b.scheme, b.rank) == ("b", 0, None)
    for spectrum in (a, b):
        assert len(spectrum.ranks) == len(spectrum.values) == 64
        assert spectrum.values[0] == 1
        assert spectrum.ranks[0] == 1 and spectrum.ranks[-1] == spectrum.full_rank


def test_the_plot_fills_its_box_and_marks_the_rank():
    spectrum = SiteSpectrum("a", 0, (1, 2, 3, 4), (1.0, 0.5, 0.25, 0.0), 4, 3)
    plot = plot_spectrum(spectrum)
    assert plot.curve.endswith(f"L{SPECTRUM_WIDTH},{SPECTRUM_HEIGHT}")
    assert plot.rank_x == SPECTRUM_WIDTH * 3 / 4
    assert plot.kept.endswith(f"L{plot.rank_x:g},{SPECTRUM_HEIGHT}Z")


def test_a_dense_site_has_no_rank_to_mark():
    plot = plot_spectrum(SiteSpectrum("a", 0, (1,), (1.0,), 1, None))
    assert plot.rank_x is None and plot.kept == ""
