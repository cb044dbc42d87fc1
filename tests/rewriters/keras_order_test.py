"""Stages whose channels change order run in Keras models, and compose back."""

import keras as keras_3
import numpy as np
import pytest
import tf_keras

from tfapprox import registry
from tfapprox.compression import compress_model
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.factorizing import factorize_plan
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.rewriters.keras_model import rewrite_keras_model
from tfapprox.rewriters.keras_order import fold_orders
from tfapprox.rewriters.keras_restore import chains_of, restore_keras_model
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.selection.problem import Budget, Configuration
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.signature import read_signatures

FLAVOURS = pytest.mark.parametrize("keras", [keras_3, tf_keras], ids=["keras3", "tf_keras"])
CHOICES = {
    "conv": Configuration(
        "bicluster_svd", {"groups_in": 2, "groups_out": 3, "rank_in": 2, "rank_out": 2}
    ),
    "colours": Configuration("monochromatic", {"colors": 4}),
    "line": Configuration("bicluster_cp", {"groups_in": 2, "groups_out": 2, "rank": 2}),
    "clusters": Configuration("messi", {"slices": 2, "rank": 2}),
    "dense": Configuration(
        "bicluster_svd", {"groups_in": 2, "groups_out": 2, "rank_in": 2, "rank_out": 2}
    ),
}


def zoo(keras):
    layers = keras.layers
    x = image = keras.Input((8, 8, 4))
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="conv")(x)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="colours")(x)
    x = layers.Reshape((16, 8))(x)
    x = layers.Conv1D(6, 3, padding="causal", activation="tanh", name="line")(x)
    x = layers.Dense(8, bias_regularizer="l2", name="clusters")(x)
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="dense")(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) * 0.4 for w in model.get_weights()])
    return model


def factorizations(model):
    inspection = inspect_keras_model(model)
    verdicts = [
        Verdict(s.name, s.kind, s.kernel.shape, CHOICES[s.name], "", 0.0, s.cost, s.cost)
        for s in inspection.sites
    ]
    return factorize_plan(inspection, Plan(tuple(verdicts)), SpectrumCache())[1]


def composed(model, built):
    """The model with the dense kernels that the stages compose to."""
    other = type(model).from_config(model.get_config())
    for old, new in zip(model.layers, other.layers, strict=True):
        weights = old.get_weights()
        if old.name in built:
            weights[0] = built[old.name].reconstruct().reshape(weights[0].shape)
        new.set_weights(weights)
    return other


def images():
    return np.random.default_rng(1).normal(size=(3, 8, 8, 4)).astype("float32")


@pytest.fixture(autouse=True)
def fresh_session():
    yield
    keras_3.backend.clear_session()
    tf_keras.backend.clear_session()


@FLAVOURS
def test_reordered_stages_agree_with_the_kernels_they_compose_to_and_go_back(keras, tmp_path):
    model = zoo(keras)
    built = factorizations(model)
    rewritten = rewrite_keras_model(model, built)
    expected = composed(model, built)(images()).numpy()
    np.testing.assert_allclose(rewritten(images()), expected, atol=1e-5)
    assert {chain.path for chain in chains_of(rewritten)} == set(CHOICES)
    restored = restore_keras_model(rewritten)
    assert [(type(x), x.name) for x in restored.layers] == [(type(x), x.name) for x in model.layers]
    np.testing.assert_allclose(restored(images()), expected, atol=1e-5)
    path = str(tmp_path / "model.keras")
    rewritten.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(loaded(images()), rewritten(images()))


def test_what_is_reordered_trains_and_is_served(tmp_path):
    model = zoo(keras_3)
    rewritten = rewrite_keras_model(model, factorizations(model), trainable_groups=True)
    rewritten.compile("sgd", "mse")
    rewritten.fit(images(), np.zeros((3, 4)), verbose=0)
    restored = restore_keras_model(rewritten)
    np.testing.assert_allclose(restored(images()), rewritten(images()), atol=1e-5)
    rewritten.export(tmp_path / "saved", verbose=False)
    (key,) = read_signatures(str(tmp_path / "saved"))["serving_default"].inputs
    with CcSession(str(tmp_path / "saved")) as session:
        (served,) = session.run({key: images()}).values()
    np.testing.assert_allclose(served, rewritten(images()), atol=1e-5)


def test_stages_without_groups_take_orders_into_their_kernels():
    model = zoo(keras_3)
    for name, built in factorizations(model).items():
        folded = fold_orders(built)
        np.testing.assert_array_equal(folded.reconstruct(), built.reconstruct())
        for stage in folded.stages:
            assert stage.groups > 1 or stage.input_order is None, name
        assert folded.stages[-1].groups > 1 or folded.output_order is None, name


@pytest.mark.parametrize("method", sorted(registry.DECOMPOSITIONS))
def test_every_decomposition_compresses_a_keras_model(method):
    layers = keras_3.layers
    keras_3.utils.set_random_seed(0)
    model = keras_3.Sequential(
        [
            keras_3.Input((8, 8, 16)),
            layers.Conv2D(32, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(16, name="dense"),
        ]
    )
    config = CompressionConfig(
        Budget("params", keep=0.95),
        decompositions=(method,),
        candidates=CandidateOptions(slices=(1, 2)),
    )
    small, report = compress_model(model, config)
    assert report.after.params <= 0.95 * report.before.params
    assert small.count_params() <= 0.95 * model.count_params()


def test_an_einsum_whose_channels_change_order_is_refused():
    layers = keras_3.layers
    x = keras_3.Input((5, 6))
    model = keras_3.Model(x, layers.EinsumDense("abc,cd->abd", (None, 8), name="colours")(x))
    site = inspect_keras_model(model).sites[0]
    built = registry.DECOMPOSITIONS["monochromatic"].factorize(
        site, CHOICES["colours"], SpectrumCache()
    )
    with pytest.raises(UserError, match=r"colours.*EinsumDense"):
        rewrite_keras_model(model, {"colours": built})
