import keras
import numpy as np

from tests.rewriters.keras_models import full_rank
from tfapprox.layers.grouped_conv2d import GroupedConv2D
from tfapprox.rewriters.keras_model import rewrite_keras_model
from tfapprox.rewriters.keras_restore import chains_of, restore_keras_model
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.signature import read_signatures

X = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="conv"),
            keras.layers.Conv2D(6, 3, strides=2, padding="same", name="strided"),
        ]
    )


def test_factors_in_groups_train_and_become_the_dense_layer_again(tmp_path):
    model = network()
    stock = rewrite_keras_model(model, full_rank(model, slices=2))
    ours = rewrite_keras_model(model, full_rank(model, slices=2), trainable_groups=True)
    kinds = [type(layer) for layer in ours.layers]
    assert kinds == [GroupedConv2D, keras.layers.Conv2D] * 2
    np.testing.assert_allclose(ours(X), stock(X), atol=1e-5)
    assert [chain.path for chain in chains_of(ours)] == ["conv", "strided"]
    np.testing.assert_allclose(restore_keras_model(ours)(X), model(X), atol=1e-5)

    ours.compile("sgd", "mse")
    before = ours.get_weights()
    ours.fit(X, np.zeros((2, 4, 4, 6), "float32"), verbose=0)
    assert not any(np.array_equal(a, b) for a, b in zip(before, ours.get_weights(), strict=True))
    ours.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), ours(X))
    ours.export(tmp_path / "saved", verbose=False)
    (key,) = read_signatures(str(tmp_path / "saved"))["serving_default"].inputs
    with CcSession(str(tmp_path / "saved")) as session:
        (served,) = session.run({key: X}).values()
    np.testing.assert_allclose(served, ours(X), atol=1e-5)


def test_the_two_layers_exchange_configs_and_weights():
    stock = keras.layers.Conv2D(4, 3, groups=2, padding="same")
    expected = stock(X)
    ours = GroupedConv2D.from_config(stock.get_config())
    ours.build(X.shape)
    ours.set_weights(stock.get_weights())
    np.testing.assert_allclose(ours(X), expected, atol=1e-5)
