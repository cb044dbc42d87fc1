import numpy as np
import pytest
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.slice_generator import SliceGenerator
from tfapprox.rewriters.generate_slices import (
    generate_slices,
    generated_kernels,
    strip_slices,
)

layers = keras.layers
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
SLICES = (4, 4, 3, 3)


def small_model():
    """A stem, a plain, a strided, a dilated, a 1x1, a grouped and a depthwise convolution."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(IMAGES.shape[1:], name="images")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    y = layers.Conv2D(8, 3, padding="same", name="plain", activation="relu")(x)
    x = layers.Add(name="add")([x, layers.BatchNormalization(name="bn")(y)])
    x = layers.Conv2D(6, (3, 2), strides=2, use_bias=False, name="strided")(x)
    x = layers.Conv2D(6, 3, dilation_rate=2, padding="same", name="dilated")(x)
    x = layers.Conv2D(8, 1, name="pointwise")(x)
    x = layers.Conv2D(8, 1, groups=2, name="grouped")(x)
    x = layers.DepthwiseConv2D(2, name="depthwise")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten(name="flatten")(x)))


def test_chosen_convolutions_are_generated_and_all_others_have_a_reason():
    rewrite = generate_slices(small_model(), SLICES, 6)
    assert set(rewrite.errors) == {"plain", "strided", "dilated", "pointwise"}
    assert rewrite.kept == {
        "stem": "the first convolution",
        "grouped": "grouped convolution (2 groups)",
        "depthwise": "DepthwiseConv2D layers are not generated",
    }
    slices = 4 + 4 + 4 + 4  # of 4 x 4 channels, the last ones of 6 channels cropped
    codes = {n: rewrite.model.get_layer(n).codes.shape for n in rewrite.errors}
    assert sum(shape[0] for shape in codes.values()) == slices
    assert {shape[1] for shape in codes.values()} == {6}


def test_a_full_size_generator_reproduces_the_network():
    model = small_model()
    rewrite = generate_slices(model, SLICES, 144, fit=True)
    assert max(rewrite.errors.values()) < 1e-12
    # Single-precision kernels through six layers.
    np.testing.assert_allclose(rewrite.model(IMAGES), model(IMAGES), atol=1e-4)


def test_a_square_invertible_pretrained_generator_reproduces_the_network_and_is_frozen():
    model = small_model()
    other = generate_slices(model, SLICES, 144, seed=3)
    rewrite = generate_slices(model, SLICES, 144, fit=True, generator=other.model)
    np.testing.assert_array_equal(rewrite.generator.generator, other.generator.generator)
    assert rewrite.generator.trainable_weights == []
    np.testing.assert_allclose(rewrite.model(IMAGES), model(IMAGES), atol=1e-3)


@pytest.mark.parametrize("code_size, larger", [(1, False), (40, True)])
def test_a_result_that_is_larger_than_the_original_is_told(code_size, larger, caplog):
    model = small_model()
    rewrite = generate_slices(model, SLICES, code_size)
    assert (rewrite.model.count_params() > model.count_params()) == larger
    assert ("take a smaller slice_shape or code_size" in caplog.text) == larger


def test_fitting_with_fewer_codes_costs_accuracy_in_order():
    model = small_model()
    errors = [
        np.mean(list(generate_slices(model, SLICES, n, fit=True).errors.values()))
        for n in (2, 6, 12)
    ]
    assert errors[0] > errors[1] > errors[2] > 0


def test_binary_codes_are_fitted_to_the_signs():
    model = small_model()
    rewrite = generate_slices(model, SLICES, 144, fit=True, binary=True, seed=1)
    assert max(rewrite.errors.values()) < 1e-3
    assert rewrite.generator.trainable_weights == []


def test_a_pretrained_generator_of_any_scale_gives_kernels_of_he_scale():
    model = small_model()
    other = generate_slices(model, SLICES, 32, seed=3)
    other.generator.generator.assign(100 * np.asarray(other.generator.generator))
    keras.utils.set_random_seed(1)
    rewrite = generate_slices(model, SLICES, 32, generator=other.generator)
    kernel = generated_kernels(rewrite.model)["plain"]
    assert 0.5 < np.std(kernel) / np.sqrt(2 / 72) < 2


def test_stripping_gives_a_plain_model_of_the_same_function_and_names():
    rewrite = generate_slices(small_model(), SLICES, 6)
    plain = strip_slices(rewrite.model)
    assert not any(isinstance(layer, SliceGenerator) for layer in plain.layers)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in small_model().layers]
    assert type(plain.get_layer("strided")) is layers.Conv2D
    assert plain.count_params() == small_model().count_params()
    np.testing.assert_allclose(plain(IMAGES), rewrite.model(IMAGES), atol=1e-5)


def test_half_precision_models_can_be_stripped():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        rewrite = generate_slices(small_model(), SLICES, 6)
        plain = strip_slices(rewrite.model)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    # Half precision has 11 bits.
    np.testing.assert_allclose(plain(IMAGES), rewrite.model(IMAGES), atol=0.02)


def test_a_second_call_adds_a_second_generator():
    first = generate_slices(small_model(), SLICES, 6, "^plain$").model
    both = generate_slices(first, (2, 2, 1, 1), 3, "^pointwise$").model
    generators = [layer for layer in both.layers if isinstance(layer, SliceGenerator)]
    assert [g.name for g in generators] == ["slice_generator", "slice_generator_1"]
    np.testing.assert_allclose(both.get_layer("plain").codes, first.get_layer("plain").codes)
    assert strip_slices(both).count_params() == small_model().count_params()


def test_one_dimensional_convolutions_are_generated_too():
    inputs = keras.Input((9, 4))
    x = layers.Conv1D(4, 3, padding="causal", name="causal")(inputs)
    outputs = layers.Conv1D(5, 3, strides=2, name="conv")(x)
    model = keras.Model(inputs, outputs)
    rewrite = generate_slices(model, (4, 4, 1, 3), 48, "", fit=True)
    assert rewrite.kept == {"causal": "causal padding"}
    x = np.random.default_rng(1).normal(size=(2, 9, 4)).astype(np.float32)
    np.testing.assert_allclose(rewrite.model(x), model(x), atol=1e-5)
    np.testing.assert_allclose(strip_slices(rewrite.model)(x), model(x), atol=1e-5)


def test_nested_models_share_the_outer_generator():
    inner_input = keras.Input((8, 8, 8))
    inner = keras.Model(
        inner_input, layers.Conv2D(8, 3, padding="same", name="inner")(inner_input), name="block"
    )
    model = keras.Sequential(
        [keras.Input((8, 8, 8)), layers.Conv2D(8, 3, padding="same", name="outer"), inner]
    )
    rewrite = generate_slices(model, SLICES, 144, "", fit=True)
    assert set(rewrite.errors) == {"outer", "block/inner"}
    assert sum(isinstance(layer, SliceGenerator) for layer in rewrite.model.layers) == 1
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(rewrite.model(x), model(x), atol=1e-4)


def test_user_mistakes_are_named():
    model = small_model()
    with pytest.raises(UserError, match=r"no convolution of model .* 'nowhere'"):
        generate_slices(model, SLICES, 6, "nowhere")
    with pytest.raises(UserError, match="no input shape yet"):
        generate_slices(keras.Sequential([layers.Conv2D(8, 3)]), SLICES, 6)
    with pytest.raises(UserError, match="got the layer Conv2D"):
        strip_slices(layers.Conv2D(8, 3))
    with pytest.raises(UserError, match=r"four numbers .*\(4, 4, 3\)"):
        generate_slices(model, (4, 4, 3), 6)
    with pytest.raises(UserError, match="has no slice-generated convolution"):
        strip_slices(model)
    with pytest.raises(UserError, match="has 0 slice generators"):
        generate_slices(model, SLICES, 6, generator=model)
    other = generate_slices(model, SLICES, 7)
    with pytest.raises(UserError, match=r"7, False\], expected"):
        generate_slices(model, SLICES, 6, generator=other.generator)
    other.generator.generator.assign(np.zeros(other.generator.generator.shape))
    with pytest.raises(UserError, match="it generates nothing"):
        generate_slices(model, SLICES, 7, generator=other.generator)
