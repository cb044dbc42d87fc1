import numpy as np
import pytest

from tests.reference import tensor_methods
from tests.reference.convolution import convolve
from tfapprox.accounting.cost import chain_cost
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.decompositions.monochromatic import (
    MonochromaticDecomposition,
    filter_colours,
    stage_shapes,
)
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.metrics import METRICS, relative_error
from tfapprox.selection.problem import Configuration

MONO = MonochromaticDecomposition()


def _site(kernel):
    return Site("conv", "conv2d", kernel, (Geometry(padding="SAME", input_size=(8, 8)),))


def _build(site, colors):
    row = Configuration("monochromatic", {"colors": colors})
    return MONO.factorize(site, row, SpectrumCache())


def _planted(seed=0):
    """Twelve filters in four colours, in random order and with random signs."""
    generator = np.random.default_rng(seed)
    palette = np.linalg.qr(generator.normal(size=(5, 4)))[0].T
    order = generator.permutation(np.repeat(np.arange(4), 3))
    patterns = generator.normal(size=(3, 3, 12))
    return np.einsum("hwo,oi->hwio", patterns, palette[order]), order


def test_planted_colours_are_found_and_shared_exactly():
    kernel, order = _planted()
    built = _build(_site(kernel), 4)
    assert tensor_methods.relative_frobenius(kernel, built.reconstruct()) < 1e-12
    places = built.output_order // 3
    assert len(set(zip(places.tolist(), order.tolist(), strict=True))) == 4


def test_a_filters_colour_is_its_main_direction_with_a_common_sign():
    kernel, order = _planted(3)
    colours = filter_colours(kernel)
    for o in range(12):
        for p in range(12):
            expected = 1.0 if order[o] == order[p] else 0.0
            assert abs(colours[o] @ colours[p]) == pytest.approx(expected, abs=1e-9)
    mixed = tensor_methods.decaying_kernel((3, 3, 3, 8), decay=0.0, dtype=np.float64)
    for channel, colour in enumerate(filter_colours(mixed)):
        matrix = mixed[..., channel].reshape(9, 3).T
        kept = np.linalg.norm(colour @ matrix)
        assert kept == pytest.approx(np.linalg.norm(matrix, ord=2))


def test_stages_are_1x1_then_one_channel_filters_in_another_order():
    kernel, _ = _planted()
    built = _build(_site(kernel), 4)
    assert [stage.kernel.shape for stage in built.stages] == [(1, 1, 5, 4), (3, 3, 1, 12)]
    assert [stage.groups for stage in built.stages] == [1, 4]
    image = np.random.default_rng(1).normal(size=(5, 6, 5))
    expected, _ = convolve(image, kernel)
    np.testing.assert_allclose(tensor_methods.run_stages(image, built), expected, atol=1e-10)


def test_every_row_keeps_the_error_and_cost_it_promises_and_one_colour_is_optimal():
    site = _site(tensor_methods.decaying_kernel((3, 3, 3, 12), dtype=np.float64))
    table = MONO.candidates(site, "frobenius", CandidateOptions(), SpectrumCache())
    assert [row.settings["colors"] for row in table.configurations] == [1, 2, 3, 4, 6, 12]
    for index, row in enumerate(table.configurations):
        built = MONO.factorize(site, row, SpectrumCache())
        true = relative_error(METRICS["frobenius"], site.kernel, built.reconstruct())
        assert table.error[index] == pytest.approx(true)
        cost = built.cost(site.geometries)
        assert all(column[index] == getattr(cost, k) for k, column in table.cost.items())
    values = np.linalg.svd(site.kernel.transpose(2, 0, 1, 3).reshape(3, -1), compute_uv=False)
    assert table.error[0] == pytest.approx(np.sqrt(np.sum(values[1:] ** 2) / np.sum(values**2)))


@pytest.mark.parametrize(
    ("colors", "printed"), [(4, 2.97), (6, 2.95), (8, 2.94), (12, 2.91), (16, 2.88), (24, 2.82)]
)
def test_speed_ups_are_those_of_table_4(colors, printed):
    """conv1 of the paper: 7x7, 3 -> 96, stride 2, 224 -> 110."""
    geometry = Geometry(strides=(2, 2), padding=((1, 1), (1, 1)), input_size=(224, 224))
    site = Site("conv1", "conv2d", np.zeros((7, 7, 3, 96), np.float32), (geometry,))
    assert geometry.output_size((7, 7)) == (110, 110)
    cost = chain_cost(stage_shapes(site, colors), site.geometries, 4)
    assert site.cost.macs / cost.macs == pytest.approx(printed, abs=0.01)


@pytest.mark.parametrize("shape", [(3, 3, 1, 6), (1, 1, 4, 6)])
def test_a_colour_for_each_filter_is_exact_where_filters_have_one(shape):
    site = _site(tensor_methods.decaying_kernel(shape, dtype=np.float64))
    built = MONO.factorize(site, MONO.full_rank(site), SpectrumCache())
    assert tensor_methods.relative_frobenius(site.kernel, built.reconstruct()) < 1e-12


def test_refusals_name_what_fits():
    site = _site(tensor_methods.decaying_kernel((3, 3, 3, 12)))
    with pytest.raises(UserError, match="colors must be among 1, 2, 3, 4, 6, 12, got 5"):
        _build(site, 5)
    with pytest.raises(UserError, match="can't reproduce a kernel of shape"):
        MONO.full_rank(site)
