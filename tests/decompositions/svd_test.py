import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.reference.convolution import convolve, convolve_chain
from tests.reference.strategies import divisors, geometries, kernels
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.errors import UserError
from tfapprox.metrics import METRICS, relative_error
from tfapprox.selection.problem import Configuration

SVD = SvdDecomposition()


def build(site, **settings):
    return SVD.factorize(site, Configuration("svd", settings), SpectrumCache())


def full_rank_of(site, scheme, slices):
    height, width, _, out_channels = site.kernel.shape
    left = out_channels * (height if scheme in (1, 3) else 1) * (width if scheme in (2, 3) else 1)
    return min(left, site.kernel.size // left // slices)


@st.composite
def sites(draw, dtype=np.float64):
    """Sites with one or two uses."""
    kernel = draw(kernels(dtype))
    uses = draw(st.lists(geometries(max_size=5), min_size=1, max_size=2))
    return Site("layer", "conv2d", kernel, tuple(uses))


def tables(site, metric="operator", **options):
    slices = tuple(k for k in range(1, site.in_channels + 1) if site.in_channels % k == 0)
    options = CandidateOptions(**{"slices": slices, "rank_multiple": 1, **options})
    return SVD.candidates(site, metric, options, SpectrumCache())


@given(sites(), st.integers(0, 3), st.data())
def test_full_rank_reproduces_the_kernel_in_every_scheme(site, scheme, data):
    slices = data.draw(divisors(site.in_channels))
    rank = full_rank_of(site, scheme, slices)
    built = build(site, scheme=scheme, slices=slices, rank=rank)
    np.testing.assert_allclose(built.reconstruct(), site.kernel, atol=1e-12)


@given(sites(), st.integers(0, 3), st.data())
def test_the_stages_convolve_as_the_dense_kernel_does(site, scheme, data):
    geometry = site.geometries[0]
    assume(0 not in geometry.output_size(site.kernel_size))
    slices = data.draw(divisors(site.in_channels))
    rank = full_rank_of(site, scheme, slices)
    built = build(site, scheme=scheme, slices=slices, rank=rank)
    shape = (*geometry.input_size, site.in_channels)
    image = np.random.default_rng(0).standard_normal(shape)
    expected, _ = convolve(
        image, site.kernel, geometry.strides, geometry.dilations, geometry.padding
    )
    actual, _ = convolve_chain(image, built, geometry)
    np.testing.assert_allclose(actual, expected, atol=1e-10)


SIZES = [(5, 6), (8, 7)]
PLACEMENTS = [
    Geometry(strides, dilations, padding, size)
    for strides, dilations, padding, size in itertools.product(
        [(1, 1), (2, 2), (2, 1), (3, 2)],
        [(1, 1), (2, 1)],
        ["SAME", "VALID", ((1, 0), (2, 1))],
        SIZES,
    )
]


@pytest.mark.parametrize("slices", [1, 2, 4])
@pytest.mark.parametrize("scheme", [0, 1, 2, 3])
def test_strides_padding_and_dilations_follow_the_taps(scheme, slices):
    rng = np.random.default_rng(scheme)
    site = Site("layer", "conv2d", rng.standard_normal((3, 2, 4, 3)))
    rank = full_rank_of(site, scheme, slices)
    built = build(site, scheme=scheme, slices=slices, rank=rank)
    for geometry in PLACEMENTS:
        image = rng.standard_normal((*geometry.input_size, 4))
        expected, _ = convolve(
            image, site.kernel, geometry.strides, geometry.dilations, geometry.padding
        )
        actual, count = convolve_chain(image, built, geometry)
        np.testing.assert_allclose(actual, expected, atol=1e-10, err_msg=str(geometry))
        assert built.cost([geometry]).macs == count


@given(sites(), st.sampled_from(["operator", "frobenius"]))
def test_errors_of_all_candidates_are_those_of_the_built_stages(site, metric):
    table = tables(site, metric)
    spectra = SpectrumCache()
    for row, configuration in list(enumerate(table.configurations))[::3]:
        built = SVD.factorize(site, configuration, spectra)
        expected = relative_error(METRICS[metric], site.kernel, built.reconstruct())
        # Noise of the values is sqrt(eps) of the largest, see compute_spectrum.
        assert table.error[row] == pytest.approx(expected, rel=1e-5, abs=1e-7), configuration


@given(sites())
def test_costs_of_all_candidates_are_those_of_the_built_stages(site):
    table = tables(site)
    spectra = SpectrumCache()
    for row, configuration in enumerate(table.configurations):
        cost = SVD.factorize(site, configuration, spectra).cost(site.geometries)
        assert all(column[row] == getattr(cost, kind) for kind, column in table.cost.items())


@given(sites())
def test_macs_of_candidates_are_those_counted_in_loops(site):
    table, spectra = tables(site), SpectrumCache()
    for row, configuration in list(enumerate(table.configurations))[::7]:
        built = SVD.factorize(site, configuration, spectra)
        counts = [
            convolve_chain(np.zeros((*use.input_size, site.in_channels)), built, use)[1]
            for use in site.geometries
        ]
        assert table.cost["macs"][row] == sum(counts)


@given(sites())
def test_every_candidate_saves_parameters_or_macs_and_none_that_does_is_left_out(site):
    table = tables(site, schemes=(0, 1, 2, 3))
    dense = site.cost
    offered = {tuple(c.settings.values()) for c in table.configurations}
    assert len(offered) == len(table)
    saves = (table.cost["params"] < dense.params) | (table.cost["macs"] < dense.macs)
    assert saves.all()
    for slices in [k for k in range(1, site.in_channels + 1) if site.in_channels % k == 0]:
        for rank in range(1, full_rank_of(site, 0, slices) + 1):
            built = build(site, scheme=0, slices=slices, rank=rank)
            cost = built.cost(site.geometries)
            worth_it = cost.params < dense.params or cost.macs < dense.macs
            assert worth_it == ((0, slices, rank) in offered)


@given(sites(), st.sampled_from(sorted(METRICS)))
def test_errors_never_rise_with_the_rank(site, metric):
    table = tables(site, metric)
    families = {}
    for configuration, error in zip(table.configurations, table.error, strict=True):
        family = configuration.settings["scheme"], configuration.settings["slices"]
        families.setdefault(family, []).append(error)
    for errors in families.values():
        assert np.all(np.diff(errors) <= 0)


def test_ranks_are_multiples_where_a_multiple_saves():
    site = Site("layer", "dense", np.ones((1, 1, 64, 64)))
    ranks = [c.settings["rank"] for c in tables(site, slices=(1,), rank_multiple=8).configurations]
    assert ranks == [8, 16, 24]


def test_small_sites_fall_back_to_powers_of_two_below_the_multiple():
    site = Site("layer", "dense", np.ones((1, 1, 12, 12)))
    ranks = [c.settings["rank"] for c in tables(site, slices=(1,), rank_multiple=8).configurations]
    assert ranks == [1, 2, 4]


def test_a_kernel_of_zeros_has_no_error():
    table = tables(Site("layer", "dense", np.zeros((1, 1, 8, 8))))
    assert len(table) and np.all(table.error == 0)


def test_a_site_too_small_to_save_has_no_rows():
    table = tables(Site("layer", "dense", np.ones((1, 1, 2, 1))))
    assert len(table) == 0 and all(len(column) == 0 for column in table.cost.values())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_stages_keep_the_kernels_dtype_and_its_precision(dtype):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 8, 6)).astype(dtype)
    site = Site("layer", "conv2d", kernel)
    built = build(site, scheme=1, slices=2, rank=6)
    assert all(stage.kernel.dtype == dtype for stage in built.stages)
    table = tables(site, schemes=(1,), slices=(2,))
    row = [c.settings["rank"] for c in table.configurations].index(6)
    error = relative_error(METRICS["operator"], kernel, built.reconstruct())
    # Every entry of both stages is rounded, and so are the sums of 12 products.
    assert error == pytest.approx(table.error[row], abs=10 * float(ml_dtypes.finfo(dtype).eps))


@given(sites())
def test_full_rank_configuration_is_exact(site):
    built = SVD.factorize(site, SVD.full_rank(site), SpectrumCache())
    np.testing.assert_allclose(built.reconstruct(), site.kernel, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scheme": 4, "slices": 1, "rank": 1}, r"layer: svd scheme .*\(0, 1, 2, 3\).* got 4"),
        ({"scheme": 0, "slices": 5, "rank": 1}, "layer: svd slices .*12 input channels, got 5"),
        ({"scheme": 0, "slices": 0, "rank": 1}, "layer: svd slices"),
        ({"scheme": 0, "slices": 2, "rank": 7}, "layer: svd rank must be from 1 to 6, got 7"),
        ({"scheme": 0, "slices": 1, "rank": 0}, "layer: svd rank must be from 1 to 8, got 0"),
        ({"scheme": 0, "rank": 1}, "layer: svd takes .*scheme, slices, rank"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_range(settings, words):
    site = Site("layer", "dense", np.ones((1, 1, 12, 8)))
    with pytest.raises(UserError, match=words):
        build(site, **settings)
