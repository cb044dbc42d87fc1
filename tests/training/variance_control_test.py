import numpy as np
import pytest
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.crs_dense import CRSDense
from tfapprox.sampling.settings import Sampling
from tfapprox.training.variance_control import VarianceControl, VarianceControlledSampling


def batches(count=4, scale=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 32, 40)).astype(np.float32)
    if scale is not None:
        x *= scale
    return [(part, part[:, :2].astype(np.float32)) for part in x]


def controlled(parts, control, ratio):
    model = keras.Sequential(
        [keras.Input((40,)), CRSDense(2, sampling=Sampling(forward_ratio=ratio), name="layer")]
    )
    model.compile(keras.optimizers.SGD(1e-4), "mse", jit_compile=False)
    callback = VarianceControlledSampling(parts, control)
    x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    model.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0, callbacks=[callback])
    return [record["layer"] for record in callback.history]


def test_the_ratio_rises_while_sampling_adds_too_much_noise():
    ratios = controlled(batches(), VarianceControl(tau=0.01, every=2, step=0.2), ratio=0.3)
    assert ratios[:3] == [0.5, 0.7, 0.9]


def test_the_ratio_falls_to_the_floor_where_pairs_do_not_matter():
    # Three inputs carry all; the rest is silent.
    silent = np.zeros(40, np.float32)
    silent[:3] = 1
    control = VarianceControl(tau=0.025, every=2, step=0.2, floor=0.2)
    assert controlled(batches(scale=silent), control, ratio=0.9)[:4] == [0.7, 0.5, 0.3, 0.2]


def test_measuring_leaves_the_settings_and_the_weights_alone():
    parts = batches()
    model = keras.Sequential(
        [keras.Input((40,)), CRSDense(2, sampling=Sampling(forward_ratio=0.5))]
    )
    model.compile("sgd", "mse", jit_compile=False)
    callback = VarianceControlledSampling(parts, VarianceControl(tau=1e9, every=1, floor=0.5))
    callback.set_model(model)
    before = [w.numpy() for w in model.weights]
    callback._adjust()
    assert model.layers[0].sampling == Sampling(forward_ratio=0.5)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_one_batch_and_models_without_sampled_layers_are_refused():
    with pytest.raises(UserError, match="two batches"):
        VarianceControlledSampling(batches(1))
    with pytest.raises(UserError, match=r"batches \(x, y\)"):
        VarianceControlledSampling(batches(1)[0])
    with pytest.raises(UserError, match="positive"):
        VarianceControl(tau=0)
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x, y = batches(1)[0]
    with pytest.raises(UserError, match="no sampled layer"):
        model.fit(x, y, verbose=0, callbacks=[VarianceControlledSampling(batches())])
