"""The rewritten model computes what the original does, and what can't be is refused."""

import keras as keras_3
import numpy as np
import pytest

from tests.reference.keras_macs import kernel_params_of, macs_of
from tests.rewriters.keras_models import (
    FLAVOURS,
    assert_agree,
    factorize,
    full_rank,
    randomize,
    small_net,
)
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.decompositions.column_row import SampledStage
from tfapprox.decompositions.generated import GeneratedStage
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_model import inspect_keras_model, rewrite_keras_model

pytestmark = pytest.mark.usefixtures("fixed_seed")


@FLAVOURS
@pytest.mark.parametrize(
    "geometry",
    [
        {"strides": 2, "padding": "same"},
        {"strides": (1, 2), "padding": "valid"},
        {"dilation_rate": (1, 2), "padding": "same"},
    ],
    ids=str,
)
def test_conv2d_of_every_scheme_and_slices_agrees_and_costs_what_was_counted(keras, geometry):
    x = keras.Input((9, 8, 4))
    ways = {f"scheme{s}_slices{k}": (s, k) for s in range(4) for k in (1, 2)}
    convolve = keras.layers.Conv2D
    branches = [convolve(5, (3, 2), name=n, activation="relu", **geometry)(x) for n in ways]
    model = randomize(keras.Model(x, branches))
    inspection = inspect_keras_model(model)
    assert inspection.macs == macs_of(model)
    replacements = {s.name: factorize(s, *ways[s.name]) for s in inspection.sites}
    new_model = rewrite_keras_model(model, replacements)
    assert_agree(model, new_model)
    costs = [replacements[s.name].cost(s.geometries) for s in inspection.sites]
    assert sum(cost.macs for cost in costs) == macs_of(new_model)
    assert sum(cost.params for cost in costs) == kernel_params_of(new_model)


@FLAVOURS
def test_dense_conv1d_and_einsum_agree_at_every_rank_of_input(keras):
    layers = keras.layers
    tokens, vector = keras.Input((10, 6), name="tokens"), keras.Input((6,), name="vector")
    ways = {"slices1": 1, "slices2": 2}
    outputs = []
    for name in ways:
        outputs += [
            layers.Dense(5, activation="tanh", name=f"vector_{name}")(vector),
            layers.Dense(5, name=f"tokens_{name}")(tokens),
            layers.Conv1D(4, 3, padding="causal", dilation_rate=2, name=f"causal_{name}")(tokens),
            layers.Conv1D(4, 3, padding="same", strides=2, name=f"same_{name}")(tokens),
            layers.EinsumDense("abc,cde->abde", (10, 2, 3), bias_axes="de", name=f"heads_{name}")(
                tokens
            ),
            layers.EinsumDense("...x,xy->...y", 5, activation="tanh", name=f"dots_{name}")(vector),
        ]
    model = randomize(keras.Model([tokens, vector], outputs))
    inspection = inspect_keras_model(model)
    assert inspection.macs == macs_of(model)
    replacements = {
        s.name: factorize(s, scheme=0, slices=ways[s.name.rpartition("_")[2]])
        for s in inspection.sites
    }
    assert len(replacements) == len(outputs)
    new_model = rewrite_keras_model(model, replacements)
    assert_agree(model, new_model)
    costs = [replacements[s.name].cost(s.geometries) for s in inspection.sites]
    assert sum(cost.macs for cost in costs) == macs_of(new_model)


@FLAVOURS
def test_einsum_over_two_axes_agrees(keras):
    x = keras.Input((4, 2, 3))
    y = keras.layers.EinsumDense("aecd,cdf->aef", (None, 6), bias_axes="f", name="merge")(x)
    model = randomize(keras.Model(x, y))
    (site,) = inspect_keras_model(model).sites
    assert site.kernel.shape == (1, 1, 6, 6) and site.geometries[0].input_size == (1, 4)
    for slices in (1, 2):
        assert_agree(model, rewrite_keras_model(model, full_rank(model, slices=slices)))


@FLAVOURS
def test_a_layer_called_twice_at_different_sizes_stays_shared(keras):
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    inner_in = keras.Input((None, None, 3))
    inner = keras.Model(inner_in, shared(inner_in), name="inner")
    a, b = keras.Input((8, 8, 3)), keras.Input((5, 4, 3))
    again = shared(keras.layers.AveragePooling2D(2, name="half")(a))
    model = randomize(keras.Model([a, b], [inner(a), inner(b), again]))
    inspection = inspect_keras_model(model)
    (site,) = inspection.sites
    assert sorted(g.input_size for g in site.geometries) == [(4, 4), (5, 4), (8, 8)]
    assert not site.assumed_size
    new_model = rewrite_keras_model(model, full_rank(model, scheme=1))
    assert_agree(model, new_model)
    kernels = [w for w in new_model.weights if len(w.shape) > 1]
    assert len(kernels) == 2


@FLAVOURS
def test_a_sequential_with_a_nested_functional_agrees(keras):
    x = keras.Input((6,))
    block = keras.Model(x, keras.layers.add([keras.layers.Dense(6, name="d")(x), x]), name="block")
    model = randomize(keras.Sequential([keras.Input((6,)), block, keras.layers.Dense(3, name="d")]))
    assert [s.name for s in inspect_keras_model(model).sites] == ["block/d", "d"]
    new_model = rewrite_keras_model(model, full_rank(model))
    assert type(new_model) is keras.Sequential
    assert_agree(model, new_model)


@FLAVOURS
def test_depthwise_stages_become_depthwise_layers(keras):
    x = keras.Input((7, 7, 3))
    model = randomize(keras.Model(x, keras.layers.Conv2D(4, 3, strides=2, name="c")(x)))
    rng = np.random.default_rng(0)
    spatial = Stage(rng.normal(size=(3, 3, 1, 6)).astype("float32"), 3)
    mixing = Stage(rng.normal(size=(1, 1, 6, 4)).astype("float32"), 1, (False, False))
    factorization = Factorization((spatial, mixing))
    new_model = rewrite_keras_model(model, {"c": factorization})
    assert type(new_model.get_layer("c_stage0")) is keras.layers.DepthwiseConv2D
    model.get_layer("c").weights[0].assign(factorization.reconstruct())
    assert_agree(model, new_model)


@FLAVOURS
def test_mistakes_are_named(keras):
    model = small_net(keras)
    fitting = full_rank(model)["second"]
    with pytest.raises(UserError, match="no site 'thrid'"):
        rewrite_keras_model(model, {"thrid": fitting})
    with pytest.raises(UserError, match="'norm' is no site"):
        rewrite_keras_model(model, {"norm": fitting})
    with pytest.raises(UserError, match=r"'first' has a kernel \(3, 3, 4, 6\)"):
        rewrite_keras_model(model, {"first": fitting})


@FLAVOURS
def test_models_without_a_graph_are_refused_with_a_way_out(keras):
    class Free(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UserError, match=r"subclassed model .*SavedModel"):
        rewrite_keras_model(Free(), {})
    with pytest.raises(UserError, match="no input shape yet"):
        inspect_keras_model(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(UserError, match="expected a Keras model, got dict"):
        inspect_keras_model({})


@pytest.mark.parametrize("made", [GeneratedStage, SampledStage])
def test_stages_that_only_saved_models_have_are_refused(made):
    model = keras_3.Sequential([keras_3.Input((8,)), keras_3.layers.Dense(6, name="dense")])
    with pytest.raises(UserError, match="dense: its plan shares a generator or samples"):
        rewrite_keras_model(model, {"dense": Factorization((made(np.ones((1, 1, 8, 6))),))})
