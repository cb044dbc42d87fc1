import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from tests.reference.convolution import convolve
from tfapprox.layers.slice_generated_conv1d import SliceGeneratedConv1D
from tfapprox.layers.slice_generated_conv2d import SliceGeneratedConv2D
from tfapprox.layers.slice_generator import SliceGenerator
from tfapprox.serving.cc_loader import CcSession

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def small_model(shared_calls=2, **generator):
    """One generator for three calls of two layers, the last of a fractional partition."""
    inputs = keras.Input(IMAGES.shape[1:])
    slices = SliceGenerator((4, 3, 3, 3), 5, name="generator", **generator)(inputs)
    shared = SliceGeneratedConv2D(6, 3, padding="same", activation="relu", name="shared")
    x = keras.layers.Conv2D(6, 1, name="stem")(inputs)
    for _ in range(shared_calls):
        x = shared([x, slices])
    x = SliceGeneratedConv2D(5, (3, 2), strides=2, use_bias=True, name="last")([x, slices])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))


def count(graph, kind):
    return sum(op.type == kind for op in graph.get_operations())


@pytest.mark.parametrize(
    ("strides", "padding", "dilations"),
    [((1, 1), "same", (1, 1)), ((2, 1), "valid", (1, 1)), ((1, 1), "same", (2, 3)), (2, "same", 1)],
)
def test_the_layer_convolves_with_the_generated_kernel(strides, padding, dilations):
    slices = SliceGenerator((2, 2, 3, 3), 4)(IMAGES)
    layer = SliceGeneratedConv2D(5, (3, 2), strides, padding, dilations)
    outputs = layer([IMAGES, slices])
    kernel = np.asarray(layer.generated_kernel(slices), np.float64)
    assert kernel.shape == (3, 2, 3, 5)
    expected, _ = convolve(IMAGES[0], kernel, layer.strides, layer.dilation_rate, padding.upper())
    # Sums of 18 products in single precision.
    np.testing.assert_allclose(outputs[0], expected, atol=1e-5)
    shapes = [IMAGES.shape, tuple(slices.shape)]
    assert tuple(outputs.shape) == tuple(layer.compute_output_shape(shapes))


@pytest.mark.parametrize("strides", [1, 2])
def test_the_one_dimensional_layer_agrees_with_keras(strides):
    x = IMAGES[:, 0]
    slices = SliceGenerator((4, 2, 1, 2), 3)(x)
    layer = SliceGeneratedConv1D(5, 3, strides, "same", use_bias=True, activation="tanh")
    outputs = layer([x, slices])
    plain = keras.layers.Conv1D(5, 3, strides, "same", activation="tanh")
    plain.build(x.shape)
    plain.set_weights([np.asarray(layer.generated_kernel(slices))[0], np.zeros(5)])
    np.testing.assert_allclose(outputs, plain(x), atol=1e-6)
    shapes = [x.shape, tuple(slices.shape)]
    assert tuple(outputs.shape) == tuple(layer.compute_output_shape(shapes))


def test_generated_kernels_have_he_scale():
    slices = SliceGenerator((16, 16, 3, 3), 128, seed=0)(IMAGES)
    binary = SliceGenerator((16, 16, 3, 3), 128, binary=True, seed=0)(IMAGES)
    for basis in (slices, binary):
        keras.utils.set_random_seed(0)
        layer = SliceGeneratedConv2D(64, 3)
        layer.build([(None, 8, 8, 64), tuple(basis.shape)])
        variance = np.var(layer.generated_kernel(basis))
        # 16 slices of 128 code entries: the variance is known to 1 / sqrt(1024) = 3 %.
        assert abs(variance / (2 / (9 * 64)) - 1) < 0.15


def test_a_layer_called_twice_generates_its_kernel_once():
    model = small_model()
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((None, 8, 8, 3))).graph
    assert count(graph, "MatMul") == 3  # two kernels and the dense layer


def test_each_step_of_an_unrolled_loop_sees_the_new_codes():
    slices = tf.constant(np.asarray(SliceGenerator((4, 3, 3, 3), 5)(IMAGES)))
    layer = SliceGeneratedConv2D(4, 3)
    layer([IMAGES, slices])

    @tf.function
    def twice():
        first = layer.generated_kernel(slices)
        layer.codes.assign(2 * tf.convert_to_tensor(layer.codes))
        return first, layer.generated_kernel(slices)

    first, second = twice()
    np.testing.assert_allclose(second, 2 * first, rtol=1e-6)


def test_compiled_training_matches_eager_training():
    results = []
    for jit in (False, True):
        keras.utils.set_random_seed(1)
        model = small_model()
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
        model.fit(IMAGES, np.ones((4, 3)), epochs=2, batch_size=4, verbose=0)
        results.append([np.asarray(weight) for weight in model.get_weights()])
    for plain, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(plain, compiled, atol=1e-5)


def test_saving_cloning_and_loading_keep_one_generator(tmp_path):
    model = small_model()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    copies = [loaded, keras.models.clone_model(model), type(model).from_config(model.get_config())]
    for copy in copies:
        assert copy.count_params() == model.count_params()
        assert sum(isinstance(layer, SliceGenerator) for layer in copy.layers) == 1


def test_an_export_serves_in_the_cpp_loader(tmp_path):
    model = small_model()
    model.export(str(tmp_path / "model"), verbose=False)
    with CcSession(str(tmp_path / "model")) as session:
        (key,) = session.signatures["serving_default"].inputs
        (output,) = session.run({key: IMAGES}).values()
    np.testing.assert_allclose(output, model(IMAGES), atol=1e-5)


def test_mixed_precision_keeps_full_precision_variables():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = small_model()
        model.compile("sgd", "mse")
        model.fit(IMAGES, np.ones((4, 3)), epochs=1, verbose=0)
        assert model(IMAGES).dtype == tf.float16
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert {str(weight.dtype) for weight in model.trainable_weights} == {"float32"}


def test_a_distribution_strategy_trains_the_shared_generator():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = small_model()
        model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_layer("generator").get_weights()[0]
    model.fit(IMAGES, np.ones((4, 3)), epochs=1, verbose=0)
    assert np.abs(model.get_layer("generator").get_weights()[0] - before).max() > 0


def test_regularization_acts_on_codes_and_offset_adds_the_last_slice():
    slices = SliceGenerator((4, 3, 3, 3), 5)(IMAGES)
    layer = SliceGeneratedConv2D(4, 3, offset=True, codes_regularizer=keras.regularizers.L2(0.5))
    layer([IMAGES, slices])
    assert tuple(layer.codes.shape) == (1, 4)
    np.testing.assert_allclose(layer.losses[0], 0.5 * np.sum(np.square(layer.codes)), rtol=1e-5)
    layer.codes.assign(tf.zeros_like(layer.codes))
    np.testing.assert_allclose(layer.generated_kernel(slices), slices[-1], atol=1e-7)


def test_the_initializer_of_codes_is_used_and_survives_the_config():
    slices = SliceGenerator((4, 3, 3, 3), 5)(IMAGES)
    layer = SliceGeneratedConv2D(4, 3, codes_initializer="ones")
    copy = SliceGeneratedConv2D.from_config(layer.get_config())
    np.testing.assert_allclose(
        copy([IMAGES, slices]),
        tf.nn.conv2d(IMAGES, tf.reduce_sum(slices, 0), 1, "VALID"),
        atol=1e-5,
    )


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="padding must be same or valid"):
        SliceGeneratedConv2D(4, 3, padding="causal")


def test_everything_works_in_the_other_keras_too(tmp_path):
    script = """
        import sys
        import numpy as np
        import tensorflow as tf
        from tensorflow import keras
        from tests.layers.slice_generated_conv2d_test import IMAGES, count, small_model
        from tfapprox.layers.slice_generator import SliceGenerator
        from tfapprox.rewriters.generate_slices import generate_slices, strip_slices

        assert keras.__name__.startswith("tf_keras") or "tf_keras" in keras.Model.__module__
        model = small_model()
        graph = tf.function(model).get_concrete_function(tf.TensorSpec((None, 8, 8, 3))).graph
        assert count(graph, "MatMul") == 3
        model.compile("sgd", "mse", jit_compile=True)
        model.fit(IMAGES, np.ones((4, 3)), verbose=0)
        model.save(sys.argv[1])
        loaded = keras.models.load_model(sys.argv[1])
        np.testing.assert_allclose(loaded(IMAGES), model(IMAGES), atol=1e-6)
        for copy in (loaded, keras.models.clone_model(model)):
            assert copy.count_params() == model.count_params()
        plain = strip_slices(model)
        np.testing.assert_allclose(plain(IMAGES), model(IMAGES), atol=1e-5)
        again = generate_slices(plain, (4, 3, 3, 3), 108, "shared", fit=True).model
        np.testing.assert_allclose(again(IMAGES), model(IMAGES), atol=1e-4)
    """
    environment = dict(os.environ, TF_USE_LEGACY_KERAS="1")
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "model.keras")],
        env=environment,
        check=True,
    )
