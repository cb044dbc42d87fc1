"""Models under observation do what they do anyway, and show what every site sees."""

from collections import defaultdict

import numpy as np
import pytest
import tensorflow as tf

from tests.corpus import saved_models, saved_models_keras, saved_models_tf1
from tests.corpus.building import CORPUS
from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.rewriters.saved_model.probing import SavedModelProbe, offset_reason, watch_reason

assert saved_models and saved_models_keras and saved_models_tf1  # they fill the corpus

# Nested functions, a loop, branches, layouts, TF1 frames, half precision, strings.
NAMES = (
    "nested_calls_with_different_kernels",
    "while_loop",
    "loop_in_a_branch_in_a_call",
    "matmul_flags",
    "einsum",
    "conv2d",
    "conv2d_explicit_padding_and_dilation",
    "mixed_precision",
    "captured_constant_in_two_signatures",
    "tf_keras_recurrent",
    "keras3_text",
    "tf1_loop",
)
EXECUTIONS = {"while_loop": {5, 1}, "loop_in_a_branch_in_a_call": {7}, "tf1_loop": {4}}


def _reference(path, signature, inputs):
    function = tf.saved_model.load(str(path)).signatures[signature]
    return function(**{key: tf.constant(value) for key, value in inputs.items()})


@pytest.mark.parametrize("name", NAMES)
def test_every_site_is_seen_and_the_outputs_stay(name, tmp_path):
    inputs = CORPUS[name].build(tmp_path / "model")
    source = open_saved_model(tmp_path / "model")
    kernels = {site.name: site.kernel for site in source.inspection.sites}
    seen = defaultdict(int)

    def watch(site, use, x, geometry):
        assert x.ndim == 4 and x.shape[3] == kernels[site].shape[2]
        seen[site] += 1
        return kernels[site], np.zeros(kernels[site].shape[3])

    with SavedModelProbe(source, list(kernels), watch) as probe:
        outputs = probe.run(inputs)
    expected = _reference(tmp_path / "model", source.signature, inputs)
    for key, value in zip(sorted(expected), outputs, strict=True):
        np.testing.assert_allclose(value, expected[key].numpy(), rtol=1e-5, atol=1e-6)
    assert set(seen) == set(kernels)
    if name in EXECUTIONS:
        assert set(seen.values()) == EXECUTIONS[name]


@pytest.mark.parametrize("name", ["matmul_flags", "einsum", "conv2d", "matmul_kernel_on_the_left"])
def test_a_kernel_and_an_offset_from_python_take_effect_in_every_layout(name, tmp_path):
    """Twice the kernel and an offset, on the only site on the way to an output, are seen there."""
    inputs = CORPUS[name].build(tmp_path / "model")
    source = open_saved_model(tmp_path / "model")
    sites = {site.name: site for site in source.inspection.sites}
    last = source.inspection.sites[-1].name
    received = {}

    def run(scale, shift):
        def watch(site, use, x, geometry):
            kernel, channels = sites[site].kernel, sites[site].out_channels
            received[site] = x
            if site != last:
                return kernel, np.zeros(channels)
            return scale * kernel, shift * np.arange(channels)

        with SavedModelProbe(source, list(sites), watch) as probe:
            return probe.run(inputs)

    plain, doubled, shifted = run(1, 0), run(2, 0), run(1, 1)
    for other in (doubled, shifted):
        assert max(np.abs(a - b).max() for a, b in zip(plain, other, strict=True)) > 1e-3


def test_an_offset_is_added_along_the_output_channels(tmp_path):
    v, w = (tf.Variable(np.ones((4, 6), np.float32) * i, name=f"k{i}") for i in (1, 2))
    root = tf.Module()
    root.v, root.w = v, w
    root.serve = tf.function(
        lambda x: {
            "right": tf.matmul(x, v),
            "left": tf.matmul(w, x, transpose_a=True, transpose_b=True),
        }
    )
    spec = tf.TensorSpec([None, 4], tf.float32, "x")
    tf.saved_model.save(
        root, str(tmp_path), {"serving_default": root.serve.get_concrete_function(spec)}
    )
    source = open_saved_model(tmp_path)
    sites = {site.name: site for site in source.inspection.sites}
    with SavedModelProbe(
        source, list(sites), lambda site, *_: (sites[site].kernel, np.arange(6.0))
    ) as probe:
        left, right = probe.run({"x": np.ones((3, 4), np.float32)})
    np.testing.assert_allclose(right, 4 + np.tile(np.arange(6.0), (3, 1)))
    np.testing.assert_allclose(left, 8 + np.tile(np.arange(6.0), (3, 1)).T)


def test_kernels_that_are_used_transposed_are_left_alone_with_a_reason(tmp_path):
    CORPUS["tied_and_transposed"].build(tmp_path / "model")
    (kernel,) = open_saved_model(tmp_path / "model").kernels
    assert "transposed" in watch_reason(kernel) and "no place for a bias" in offset_reason(kernel)
