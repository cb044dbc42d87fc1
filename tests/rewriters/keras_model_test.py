import keras as keras_3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.reference.keras_macs import kernel_params_of, macs_of
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.decompositions.column_row import SampledStage
from tfapprox.decompositions.generated import GeneratedStage
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.decompositions.unfolding import matrix_shape
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_model import inspect_keras_model, rewrite_keras_model
from tfapprox.selection.problem import Configuration
from tfapprox.serving.cc_loader import CcSession

FLAVOURS = pytest.mark.parametrize("keras", [keras_3, tf_keras], ids=["keras3", "tf_keras"])
# Single precision, a few hundred terms a sum.
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def fixed_seed():
    keras_3.utils.set_random_seed(0)
    tf_keras.utils.set_random_seed(0)
    yield
    keras_3.backend.clear_session()
    tf_keras.backend.clear_session()


def factorize(site, scheme=0, slices=1, rank=None):
    rank = rank or min(matrix_shape(site.kernel.shape, scheme, slices))
    settings = Configuration("svd", {"scheme": scheme, "slices": slices, "rank": rank})
    return SvdDecomposition().factorize(site, settings, SpectrumCache())


def full_rank(model, **settings):
    return {s.name: factorize(s, **settings) for s in inspect_keras_model(model).sites}


def arrays(model, batch=2, size=8):
    rng = np.random.default_rng(0)
    shapes = [[batch] + [size if n is None else n for n in x.shape[1:]] for x in model.inputs]
    dtypes = [tf.as_dtype(x.dtype).as_numpy_dtype for x in model.inputs]
    return [rng.normal(size=s).astype(d) for s, d in zip(shapes, dtypes, strict=True)]


def outputs_of(model, inputs):
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [y.numpy() for y in tf.nest.flatten(outputs)]


def assert_agree(model, other, tolerance=TOLERANCE, **sizes):
    inputs = arrays(model, **sizes)
    for a, b in zip(outputs_of(model, inputs), outputs_of(other, inputs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert np.linalg.norm(np.float64(a) - b) <= tolerance * np.linalg.norm(np.float64(a))


def randomize(model):
    """Gives biases, statistics and the like values that can't be mistaken for defaults."""
    rng = np.random.default_rng(1)
    for w in model.weights:
        w.assign(np.abs(rng.normal(size=w.shape)) * 0.5 + 0.1)
    return model


def small_net(keras):
    """Two inputs and outputs, a residual add, batch norm, a nested Sequential."""
    layers = keras.layers
    image = keras.Input((9, 8, 4), name="image")
    extra = keras.Input((3,), name="extra")
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="first")(image)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(6, 3, padding="same", use_bias=False, name="second")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="add")([x, y]))
    x = layers.Concatenate(name="join")([x, extra])
    head = keras.Sequential(
        [
            keras.Input((9,)),
            layers.Dense(7, activation="tanh", name="hidden"),
            layers.Dense(5, name="top"),
        ],
        name="head",
    )
    x = head(x)
    scores = layers.Dense(4, activation="softmax", name="scores")(x)
    value = layers.Dense(2, name="value")(x)
    return randomize(keras.Model([image, extra], [scores, value], name="small_net"))


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
def test_names_order_flavour_and_untouched_weights_are_kept(keras):
    model = small_net(keras)
    new_model = rewrite_keras_model(
        model, {k: v for k, v in full_rank(model).items() if k != "value"}
    )
    assert_agree(model, new_model)
    assert type(new_model) is type(model) and new_model.name == model.name
    assert new_model.output_names == model.output_names
    assert [x.name for x in new_model.inputs] == [x.name for x in model.inputs]
    assert type(new_model.get_layer("head")) is keras.Sequential
    assert [x.name for x in new_model.get_layer("head").layers] == [
        *("hidden_stage0", "hidden", "top_stage0", "top")
    ]
    for name in ("norm", "value"):
        old, new = (m.get_layer(name).get_weights() for m in (model, new_model))
        assert [w.tobytes() for w in old] == [w.tobytes() for w in new]
    assert not new_model.get_layer("first_stage0").use_bias
    bias = model.get_layer("first").get_weights()[1]
    np.testing.assert_array_equal(new_model.get_layer("first").get_weights()[1], bias)


@FLAVOURS
def test_the_model_that_came_in_is_unchanged_and_shares_nothing(keras):
    model = small_net(keras)
    before, config = [w.copy() for w in model.get_weights()], model.get_config()
    new_model = rewrite_keras_model(model, full_rank(model))
    for w in new_model.weights:
        w.assign(np.zeros(w.shape))
    assert model.get_config() == config
    for old, now in zip(before, model.get_weights(), strict=True):
        assert old.tobytes() == now.tobytes()
    for layer in model.layers:
        assert layer.output is not None  # a second call would have made it ambiguous


@FLAVOURS
def test_without_replacements_every_weight_and_name_is_kept(keras):
    model = small_net(keras)
    copy = rewrite_keras_model(model, {})
    assert copy.get_config() == model.get_config()
    for old, new in zip(model.get_weights(), copy.get_weights(), strict=True):
        assert old.tobytes() == new.tobytes()


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
def test_dtype_policies_trainability_and_regularizers_are_carried_over(keras):
    layers = keras.layers
    x = keras.Input((6,), dtype="float64")
    y = layers.Dense(
        5,
        dtype="float64",
        name="wide",
        kernel_regularizer=keras.regularizers.L2(0.1),
        bias_regularizer=keras.regularizers.L2(0.2),
    )(x)
    y = layers.Dense(4, dtype="mixed_bfloat16", name="mixed", trainable=False)(y)
    model = randomize(keras.Model(x, y))
    new_model = rewrite_keras_model(model, full_rank(model))
    wide, mixed = new_model.get_layer("wide_stage0"), new_model.get_layer("mixed_stage0")
    assert wide.get_weights()[0].dtype == np.float64
    assert (mixed.compute_dtype, mixed.variable_dtype) == ("bfloat16", "float32")
    assert len(new_model.get_layer("wide").losses) == 2 and len(wide.losses) == 1
    assert not new_model.get_layer("mixed").trainable and not mixed.trainable
    # bfloat16 keeps 8 bits, and one stage more rounds once more.
    assert_agree(model, new_model, tolerance=2**-6)


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
def test_the_result_saves_and_loads_in_its_own_format(keras, tmp_path):
    model = small_net(keras)
    new_model = rewrite_keras_model(model, full_rank(model, slices=1))
    new_model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    assert_agree(new_model, reloaded, tolerance=0)


@FLAVOURS
def test_the_exported_result_runs_in_the_cc_loader(keras, tmp_path):
    x = keras.Input((9, 8, 4), name="image")
    y = keras.layers.Conv2D(6, 3, name="conv")(x)
    model = randomize(keras.Model(x, keras.layers.Flatten()(y)))
    new_model = rewrite_keras_model(model, full_rank(model, slices=2))
    (image,) = arrays(model)
    path = str(tmp_path / "export")
    if keras is keras_3:
        new_model.export(path, verbose=False)
    else:
        new_model.save(path, save_format="tf")
    with CcSession(path) as session:
        (key,) = session.signatures["serving_default"].inputs
        (found,) = session.run({key: image}).values()
    (expected,) = outputs_of(model, [image])
    assert np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected)


@FLAVOURS
def test_a_rewrite_of_a_rewrite_gets_fresh_names(keras):
    model = small_net(keras)
    once = rewrite_keras_model(model, full_rank(model))
    twice = rewrite_keras_model(once, full_rank(once))
    assert_agree(model, twice, tolerance=2 * TOLERANCE)


@FLAVOURS
def test_dictionaries_of_inputs_and_outputs_keep_their_keys(keras):
    inputs = {"b": keras.Input((3,), name="b"), "a": keras.Input((4,), name="a")}
    x = keras.layers.Concatenate()([inputs["b"], inputs["a"]])
    outputs = {"z": keras.layers.Dense(2)(x), "y": keras.layers.Dense(3)(x)}
    model = randomize(keras.Model(inputs, outputs))
    new_model = rewrite_keras_model(model, full_rank(model))
    given = {"a": np.ones((2, 4), "float32"), "b": np.full((2, 3), 2, "float32")}
    expected, found = model(given), new_model(given)
    assert set(found) == {"y", "z"}
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=TOLERANCE)


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


@FLAVOURS
def test_a_frozen_model_stays_frozen_with_what_was_thawed_inside(keras):
    model = small_net(keras)
    model.trainable = False
    model.get_layer("first").trainable = True
    new_model = rewrite_keras_model(model, full_rank(model))
    assert not new_model.trainable
    thawed = {x.name for x in new_model.layers if x.weights and x.trainable}
    assert thawed == {"first_stage0", "first"}


@pytest.mark.parametrize("made", [GeneratedStage, SampledStage])
def test_stages_that_only_saved_models_have_are_refused(made):
    model = keras_3.Sequential([keras_3.Input((8,)), keras_3.layers.Dense(6, name="dense")])
    with pytest.raises(UserError, match="dense: its plan shares a generator or samples"):
        rewrite_keras_model(model, {"dense": Factorization((made(np.ones((1, 1, 8, 6))),))})
