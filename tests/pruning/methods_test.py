import numpy as np
import pytest

from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.pruning.channels import ChannelLayer, ChannelMap
from tfapprox.pruning.levels import highest_survivors, smallest_level, survivors
from tfapprox.pruning.methods import PRUNINGS, Evidence, sensitivities
from tfapprox.selection.problem import Budget

RNG = np.random.default_rng(0)
X, A, B, Y = np.arange(3), np.arange(3, 8), np.arange(8, 12), np.arange(12, 14)
KERNELS = {
    "first": RNG.normal(size=(3, 5)),
    "second": RNG.normal(size=(5, 4)),
    "last": RNG.normal(size=(4, 2)),
}
ROWS = {
    name: np.maximum(RNG.normal(size=(20, len(kernel))), 0 if name != "first" else -9)
    for name, kernel in KERNELS.items()
}
EVIDENCE = Evidence(KERNELS, ROWS)


def layer(name, inputs, outputs):
    macs = len(inputs) * len(outputs)
    return ChannelLayer(name, inputs, outputs, ((inputs, outputs), (outputs,)), 4, macs)


CHAIN = ChannelMap(
    (layer("first", X, A), layer("second", A, B), layer("last", B, Y)),
    14,
    ("input",) * 3 + ("",) * 9 + ("output",) * 2,
)
WHOLE = sum(len(k) * len(k[0]) + len(k[0]) for k in KERNELS.values())


def levels_of(method):
    return [PRUNINGS[method].levels(CHAIN, unit, EVIDENCE) for unit in CHAIN.units]


def slow_sensitivity(rows, kernel):
    """The definition, one product at a time."""
    found = np.zeros(len(kernel))
    for x in rows:
        for out in range(kernel.shape[1]):
            products = [x[i] * kernel[i, out] for i in range(len(kernel))]
            for sign in (1, -1):
                own = [max(sign * product, 0.0) for product in products]
                if sum(own):
                    found = np.maximum(found, np.array(own) / sum(own))
    return found


def test_sensitivities_are_those_of_the_definition():
    for own in CHAIN.layers:
        found = sensitivities(ROWS[own.name], KERNELS[own.name], own, own.inputs)
        expected = slow_sensitivity(ROWS[own.name], KERNELS[own.name])
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_channel_on_several_taps_counts_as_one():
    kernel = RNG.normal(size=(2, 3, 4))
    rows = RNG.normal(size=(10, 6))
    own = ChannelLayer("conv", X, A[:4], ((2, X, A[:4]),), 4, 24)
    total = np.zeros(3)
    for sign in (1, -1):
        products = np.maximum(sign * rows[:, :, None] * kernel.reshape(6, 4), 0)
        by_channel = products.reshape(10, 2, 3, 4).sum(axis=1)
        total = np.maximum(total, (by_channel / products.sum(axis=1)[:, None]).max(axis=(0, 2)))
    np.testing.assert_allclose(sensitivities(rows, kernel, own, X), total, rtol=1e-5)


def test_dropping_channels_changes_no_response_by_more_than_their_level():
    for own, level in zip(CHAIN.layers[1:], levels_of("pfp"), strict=True):
        rows, kernel = ROWS[own.name], KERNELS[own.name]
        for bound in level[level < 1]:
            gone = level <= bound
            for sign in (1, -1):
                parts = np.maximum(sign * rows[:, :, None] * kernel, 0)
                lost, whole = parts[:, gone].sum(axis=1), parts.sum(axis=1)
                assert (lost <= (bound + 1e-6) * whole).all()


def test_filters_go_by_their_norm_and_every_unit_loses_the_same_share():
    levels = levels_of("ft")
    norms = np.linalg.norm(KERNELS["first"], axis=0)
    assert np.argsort(levels[0]).tolist() == np.argsort(norms).tolist()
    alive = survivors(CHAIN, CHAIN.units, levels, 0.5)
    assert [int(alive[unit.classes].sum()) for unit in CHAIN.units] == [3, 2]


def test_tied_filters_add_up():
    twins = ChannelMap((layer("first", X, A), layer("third", X, A)), 8, ("",) * 8)
    kernels = {"first": KERNELS["first"], "third": RNG.normal(size=(3, 5))}
    (unit,) = twins.units
    levels = PRUNINGS["ft"].levels(twins, unit, Evidence(kernels, {}))
    norms = np.sqrt(sum(np.square(k).sum(axis=0) for k in kernels.values()))
    assert np.argsort(levels).tolist() == np.argsort(norms).tolist()


@pytest.mark.parametrize("method", PRUNINGS)
@pytest.mark.parametrize("kind", ["params", "macs", "bytes"])
def test_the_level_is_the_smallest_that_meets_the_budget(method, kind):
    levels = levels_of(method)
    whole = getattr(CHAIN.cost(np.ones(14, bool)), kind)
    for keep in (0.4, 0.6, 0.8, 1.0):
        level = smallest_level(CHAIN, CHAIN.units, levels, Budget(kind, keep=keep), whole)
        costs = {
            float(step): getattr(CHAIN.cost(survivors(CHAIN, CHAIN.units, levels, step)), kind)
            for step in [0.0, *np.concatenate(levels)]
        }
        assert costs[level] <= keep * whole
        assert all(cost > keep * whole for step, cost in costs.items() if step < level)


def test_one_channel_of_every_unit_stays_and_the_floor_is_named():
    levels = levels_of("ft")
    alive = survivors(CHAIN, CHAIN.units, levels, 2.0)
    assert [int(alive[unit.classes].sum()) for unit in CHAIN.units] == [1, 1]
    floor = CHAIN.cost(alive).params / WHOLE
    with pytest.raises(InfeasibleBudgetError, match=f"{floor:.4f}"):
        smallest_level(CHAIN, CHAIN.units, levels, Budget("params", keep=0.05), WHOLE)


def test_a_budget_of_latency_is_refused():
    with pytest.raises(UserError, match="latency"):
        smallest_level(CHAIN, CHAIN.units, levels_of("ft"), Budget("latency", keep=0.5), WHOLE)


def test_counts_say_which_channels_stay_as_levels_do():
    levels = levels_of("pfp")
    alive = survivors(CHAIN, CHAIN.units, levels, 0.4)
    counts = [int(alive[unit.classes].sum()) for unit in CHAIN.units]
    np.testing.assert_array_equal(highest_survivors(CHAIN, CHAIN.units, levels, counts), alive)
