"""What a rewrite leaves as it was, and that the result is a model like any other."""

import keras as keras_3
import numpy as np
import pytest

from tests.rewriters.keras_models import (
    FLAVOURS,
    TOLERANCE,
    arrays,
    assert_agree,
    full_rank,
    outputs_of,
    randomize,
    small_net,
)
from tfapprox.rewriters.keras_model import rewrite_keras_model
from tfapprox.serving.cc_loader import CcSession

pytestmark = pytest.mark.usefixtures("fixed_seed")


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
def test_a_frozen_model_stays_frozen_with_what_was_thawed_inside(keras):
    model = small_net(keras)
    model.trainable = False
    model.get_layer("first").trainable = True
    new_model = rewrite_keras_model(model, full_rank(model))
    assert not new_model.trainable
    thawed = {x.name for x in new_model.layers if x.weights and x.trainable}
    assert thawed == {"first_stage0", "first"}
