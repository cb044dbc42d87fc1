import numpy as np

from tfapprox.pruning.channels import ChannelLayer, ChannelMap, Ties

A, B = np.array([0, 1, 2]), np.array([3, 4])


def layer(name, inputs, outputs, taps=9, macs=540):
    return ChannelLayer(name, inputs, outputs, ((taps, inputs, outputs), (outputs,)), 4, macs)


def test_tied_channels_share_a_class_and_the_first_reason_to_stay():
    ties = Ties()
    one, other, rest = ties.new(2), ties.new(2), ties.new(1)
    ties.freeze(other[:1], "first")
    ties.tie(one, other)
    ties.freeze(one[:1], "second")
    classes, frozen = ties.classes()
    assert classes[one].tolist() == classes[other].tolist()
    assert len(set(classes[[0, 1, 4]])) == 3 == len(frozen)
    assert [frozen[c] for c in classes[[2, 3, rest[0]]]] == ["first", "", ""]


def test_costs_and_weights_follow_the_channels_that_stay():
    own = layer("conv", A, B)
    alive = np.array([True, False, True, True, False])
    cost = own.cost(alive)
    assert (cost.params, cost.macs, cost.bytes) == (9 * 2 * 1 + 1, 540 // 3, 4 * 19)
    assert own.cost(alive, slice(0, 1)).params == 18
    kernel = np.arange(54.0).reshape(9, 3, 2)
    small, bias = own.keep([kernel, np.array([7.0, 8.0])], alive)
    np.testing.assert_array_equal(small, kernel[:, [0, 2]][:, :, [0]])
    assert bias.tolist() == [7.0]


def test_units_are_channels_of_the_same_makers_less_those_that_stay():
    tied = ChannelMap(
        (layer("a", A, B), layer("b", A, B), layer("last", B, A)),
        5,
        ("an output of the model",) * 3 + ("", ""),
    )
    (unit,) = tied.units
    assert unit.layers == ("a", "b") and unit.classes.tolist() == [3, 4]
    assert [tied.reason(own) for own in tied.layers] == ["", "", "an output of the model"]
