"""Chains of stages are found again and become the layers they stand for."""

import keras as keras_3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.unfolding import matrix_shape
from tfapprox.factorizing import factorize_plan
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.rewriters.keras_model import rewrite_keras_model
from tfapprox.rewriters.keras_restore import chains_of, restore_keras_model
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.selection.problem import Configuration

FLAVOURS = pytest.mark.parametrize("keras", [keras_3, tf_keras], ids=["keras3", "tf_keras"])


def zoo(keras):
    """Every kind of site, strided and dilated, in a nested model and called twice."""
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((12,)), layers.Dense(12, activation="relu", name="shared")], name="inner"
    )
    image = x = keras.Input((9, 8, 4))
    x = layers.Conv2D(6, (3, 2), strides=2, padding="same", activation="relu", name="strided")(x)
    x = layers.Conv2D(12, 3, dilation_rate=(1, 2), padding="same", use_bias=False, name="wide")(x)
    x = layers.Conv2D(12, 1, strides=2, kernel_regularizer="l2", name="pointwise")(x)
    x = layers.Reshape((-1, 12))(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv1D(12, 3, padding="causal", dilation_rate=2, name="causal")(x)
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 6), bias_axes="de", name="heads")(x)
    x = layers.EinsumDense("abde,dec->abc", (None, 12), name="merge")(x)
    x = inner(inner(layers.GlobalAveragePooling1D()(x)))
    outputs = layers.Dense(5, activation="softmax", name="scores")(x)
    return keras.Model(image, outputs, name="zoo")


def randomize(model):
    rng = np.random.default_rng(0)
    model.set_weights([np.abs(rng.normal(size=w.shape)) * 0.3 for w in model.get_weights()])
    return model


def rewrite(model, choose):
    inspection = inspect_keras_model(model)
    verdicts = [
        Verdict(s.name, s.kind, s.kernel.shape, choose(s), "", 0.0, s.cost, s.cost)
        for s in inspection.sites
    ]
    _, stages = factorize_plan(inspection, Plan(tuple(verdicts)), SpectrumCache())
    return rewrite_keras_model(model, stages)


def assert_same(model, other):
    x = tf.constant(np.random.default_rng(1).normal(size=(3, *model.input_shape[1:])), "float32")
    expected, actual = model(x).numpy(), other(x).numpy()
    assert np.linalg.norm(actual - expected) <= 1e-5 * np.linalg.norm(expected)


def full_rank(scheme, slices=1):
    def choose(site):
        k = 1 if site.kind == "einsum" else slices
        rank = min(matrix_shape(site.kernel.shape, scheme, k))
        return Configuration("svd", {"scheme": scheme, "slices": k, "rank": rank})

    return choose


@FLAVOURS
@pytest.mark.parametrize("scheme, slices", [(0, 1), (1, 1), (2, 2), (3, 1), (0, 2)])
def test_every_chain_becomes_the_original_layer_again(keras, scheme, slices):
    model = randomize(zoo(keras))
    factorized = rewrite(model, full_rank(scheme, slices))
    sites = {site.name for site in inspect_keras_model(model).sites}
    assert {chain.path for chain in chains_of(factorized)} == sites
    restored = restore_keras_model(factorized)
    assert [x.name for x in restored.layers] == [x.name for x in model.layers]
    assert not list(chains_of(restored))
    assert_same(factorized, restored)
    for old, new in zip(model.get_weights(), restored.get_weights(), strict=True):
        new = new.transpose(1, 0, 2) if new.shape != old.shape else new  # kernel of "merge"
        assert np.linalg.norm(old - new) <= 1e-5 * np.linalg.norm(old)
    assert restored.get_layer("pointwise").kernel_regularizer is not None


@FLAVOURS
def test_offsets_go_into_the_dense_layers_biases(keras):
    model = randomize(zoo(keras))
    inspection = inspect_keras_model(model)
    rng = np.random.default_rng(3)
    built = {}
    for site in inspection.sites:
        matrix = site.kernel.reshape(-1, site.out_channels)
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        first = (left[:, :2] * values[:2]).reshape(*site.kernel.shape[:3], 2)
        stages = (Stage(first), Stage(right[:2][None, None], axes=(False, False)))
        offset = rng.normal(size=site.out_channels).astype("float32")
        built[site.name] = Factorization(stages, offset=offset)
    factorized = rewrite_keras_model(model, built)
    restored = restore_keras_model(factorized)
    assert not list(chains_of(restored))
    assert_same(factorized, restored)
    for name, had in (("wide", None), ("strided", model.get_layer("strided").bias)):
        bias = 0 if had is None else np.asarray(had)
        got = np.asarray(restored.get_layer(name).bias)
        np.testing.assert_allclose(got, bias + built[name].offset, rtol=1e-5)


def test_three_stages_and_depthwise_ones_are_composed():
    model = randomize(zoo(keras_3))
    inspection = inspect_keras_model(model)
    wide = next(site for site in inspection.sites if site.name == "wide")
    rng = np.random.default_rng(2)
    stages = Factorization(
        (
            Stage(rng.normal(size=(3, 1, 1, 12)).astype("float32"), groups=6, axes=(True, False)),
            Stage(rng.normal(size=(1, 3, 1, 12)).astype("float32"), groups=12, axes=(False, True)),
            Stage(rng.normal(size=(1, 1, 12, 12)).astype("float32"), axes=(False, False)),
        )
    )
    factorized = rewrite_keras_model(model, {wide.name: stages})
    restored = restore_keras_model(factorized)
    assert restored.get_layer("wide").kernel.shape == (3, 3, 6, 12)
    assert_same(factorized, restored)


def test_layers_that_only_look_like_stages_stay():
    layers = keras_3.layers
    inputs = keras_3.Input((4,))
    linear = layers.Dense(3, use_bias=False, name="read_stage0")(inputs)
    curved = layers.Dense(3, activation="relu", name="top_stage0")(inputs)
    outputs = [
        layers.Dense(2, name="read")(linear),
        layers.Dense(2, name="top")(curved),
        layers.Activation("relu", name="other")(linear),
    ]
    model = keras_3.Model(inputs, outputs)
    assert not list(chains_of(model))
    assert [x.name for x in restore_keras_model(model).layers] == [x.name for x in model.layers]
