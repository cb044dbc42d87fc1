import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.reference.convolution import convolve, convolve_chain
from tests.reference.strategies import geometries
from tfapprox.accounting.cost import Cost, StageShape, chain_cost
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.geometry import Geometry


@st.composite
def chains(draw):
    """Chains of three stages with random groups, each axis held by any one of them."""
    holders = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    groups = [draw(st.integers(1, 3)) for _ in range(3)]
    channels = [6 * draw(st.integers(1, 2)) for _ in range(4)]
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    stages = []
    for i in range(3):
        taps = [draw(st.integers(1, 3)) if holders[axis] == i else 1 for axis in (0, 1)]
        kernel = rng.standard_normal((*taps, channels[i] // groups[i], channels[i + 1]))
        stages.append(Stage(kernel, groups[i], (holders[0] == i, holders[1] == i)))
    return Factorization(tuple(stages))


@given(chains(), geometries(max_size=4), st.integers(0, 2**16))
def test_a_chain_does_what_its_composed_kernel_does(chain, geometry, seed):
    composed = chain.reconstruct()
    assume(0 not in geometry.output_size(composed.shape[:2]))
    shape = (*geometry.input_size, composed.shape[2])
    image = np.random.default_rng(seed).standard_normal(shape)
    expected, _ = convolve(image, composed, geometry.strides, geometry.dilations, geometry.padding)
    actual, count = convolve_chain(image, chain, geometry)
    # Sums of at most 3 * 3 * 12**3 products of unit normals.
    np.testing.assert_allclose(actual, expected, atol=1e-9)
    assert chain.cost([geometry]).macs == count


@given(chains())
def test_parameters_are_the_kernels_entries(chain):
    cost = chain.cost([Geometry(), Geometry(input_size=(5, 5))])
    assert cost.params == sum(stage.kernel.size for stage in chain.stages)
    assert cost.bytes == sum(stage.kernel.nbytes for stage in chain.stages)


@given(chains(), st.integers(0, 2**16))
def test_scaled_outputs_are_those_of_the_chain_times_the_scale(chain, seed):
    rng = np.random.default_rng(seed)
    channels = chain.stages[-1].kernel.shape[3]
    chain = Factorization(chain.stages, rng.permutation(channels), rng.standard_normal(channels))
    scale = rng.standard_normal(channels)
    scaled = chain.with_scaled_outputs(scale)
    np.testing.assert_allclose(scaled.reconstruct(), chain.reconstruct() * scale, atol=1e-9)
    np.testing.assert_allclose(scaled.offset, chain.offset * scale)
    assert scaled.cost([Geometry()]) == chain.cost([Geometry()])


def test_macs_add_up_over_uses_and_grouped_stages_count():
    kernel = np.zeros((3, 3, 4, 6))
    chain = Factorization(
        (Stage(kernel, groups=2), Stage(np.zeros((1, 1, 6, 5)), 1, (False, False)))
    )
    uses = [Geometry(padding="SAME", input_size=(8, 8)), Geometry((2, 2), input_size=(7, 7))]
    first, second = 3 * 3 * 4 * 6, 6 * 5
    assert chain.cost(uses).macs == (64 + 9) * (first + second)


def test_costs_are_columns_when_channels_are():
    ranks = np.array([1, 2, 3])
    cost = chain_cost([StageShape((1, 1), 4, ranks), StageShape((1, 1), ranks, 6)], [Geometry()], 4)
    np.testing.assert_array_equal(cost.params, 10 * ranks)
    np.testing.assert_array_equal(cost.bytes, 40 * ranks)


def test_ungrouped_spells_out_groups():
    rng = np.random.default_rng(0)
    stage = Stage(rng.standard_normal((2, 3, 2, 6)), groups=3)
    image = rng.standard_normal((4, 5, 6))
    expected, _ = convolve(image, stage.kernel, groups=3)
    np.testing.assert_allclose(convolve(image, stage.ungrouped())[0], expected, atol=1e-12)


@pytest.mark.parametrize("axes", [((True, True), (True, False)), ((True, False), (False, False))])
def test_every_axis_has_exactly_one_holder(axes):
    stages = tuple(Stage(np.zeros((1, 1, 2, 2)), 1, held) for held in axes)
    with pytest.raises(ValueError, match="exactly one stage"):
        Factorization(stages)


def test_taps_on_an_axis_that_is_not_held_are_refused():
    stages = (
        Stage(np.zeros((3, 1, 2, 2)), 1, (False, True)),
        Stage(np.zeros((1, 1, 2, 2)), 1, (True, False)),
    )
    with pytest.raises(ValueError, match="exactly one stage"):
        Factorization(stages)


def test_costs_add():
    assert Cost(1, 2, 3) + Cost(10, 20, 30) == Cost(11, 22, 33)
