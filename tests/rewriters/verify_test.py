"""Tests of reading a model back and running it against the original."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.rewriters.verify import verify_saved_model


class Model(tf.Module):
    """Signatures f (float32 -> y) and g (int32 -> count)."""

    def __init__(self, scale=1.0, noise=0.0, output="y"):
        super().__init__()
        self.scale = tf.Variable(scale)
        self.noise, self.output = noise, output

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")])
    def f(self, x):
        return {self.output: x * self.scale + self.noise * tf.random.normal(tf.shape(x))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="n")])
    def g(self, n):
        return {"count": n + 1}


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    def write(name, *, both=True, **settings) -> str:
        path = str(tmp_path_factory.mktemp("verify") / name)
        module = Model(**settings)
        signatures = {"serving_default": module.f, **({"g": module.g} if both else {})}
        tf.saved_model.save(module, path, signatures)
        return path

    return write


@pytest.fixture(scope="module")
def original(save):
    return save("original")


def test_a_model_agrees_with_itself(original):
    steps = []
    result = verify_saved_model(
        original, original, max_relative_error=0, progress=lambda *step: steps.append(step)
    )
    assert result.passed and not result.notes
    assert [(o.signature, o.output) for o in result.outputs] == [
        ("g", "count"),
        ("serving_default", "y"),
    ]
    assert result.inputs == "made up, batch 4, seed 0"
    assert steps[-1] == ("verifying", 4, 4)


def test_errors_are_measured_on_the_inputs_given_and_limited(save, original):
    candidate, x = save("scaled", scale=1.25), np.ones((2, 3), np.float32)
    free = verify_saved_model(candidate, original, {"x": x})
    assert free.passed
    assert free.relative_error == pytest.approx(0.25)
    assert free.inputs.startswith("given for serving_default; other")
    limited = verify_saved_model(candidate, original, {"x": x}, max_relative_error=0.2)
    assert limited.failures == (
        "serving_default, output 'y': relative error 2.50e-01 exceeds 2.00e-01",
    )


def test_another_structure_fails(save, original):
    result = verify_saved_model(save("renamed", output="z", both=False), original)
    assert "signature 'g' is missing" in result.failures
    assert "serving_default: output 'y' is missing" in result.failures
    assert "serving_default: output 'z' is new" in result.failures


def test_outputs_that_are_not_finite_fail(save, original):
    result = verify_saved_model(save("nan", scale=float("nan")), original)
    assert any("not finite" in failure for failure in result.failures)


def test_a_damaged_candidate_fails_in_both_loaders(original, tmp_path):
    shutil.copytree(original, tmp_path / "damaged")
    (tmp_path / "damaged" / "variables" / "variables.index").write_bytes(b"short")
    failures = verify_saved_model(tmp_path / "damaged", original).failures
    assert any("in Python" in failure for failure in failures)
    assert any("C++ loader" in failure for failure in failures)


def test_a_random_model_is_found_out_and_not_limited(save):
    noisy = save("noisy", noise=1.0)
    result = verify_saved_model(noisy, noisy, max_relative_error=1e-5)
    assert result.passed
    assert any("serving_default is random or keeps state" in note for note in result.notes)


def test_a_reference_that_the_cxx_loader_refuses_is_noted(tmp_path):
    model = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(2)])
    tf.saved_model.save(model, str(tmp_path / "plain"))
    plain = verify_saved_model(tmp_path / "plain", tmp_path / "plain")
    assert plain.passed and plain.relative_error == 0
    assert any("Could not find variable" in note for note in plain.notes)


def test_unknown_signatures_and_directories_are_mistakes(original, tmp_path):
    with pytest.raises(UserError, match="no signature 'h'"):
        verify_saved_model(original, original, signature="h")
    with pytest.raises(UserError, match="not a SavedModel"):
        verify_saved_model(original, tmp_path)


def test_inputs_that_do_not_fit_are_a_mistake(original):
    with pytest.raises(UserError, match=r"'x' must be float32 \[\?, 3\], got shape \[2, 4\]"):
        verify_saved_model(original, original, {"x": np.ones((2, 4), np.float32)})


def test_a_signature_that_takes_the_same_gets_the_given_inputs_too(tmp_path):
    for name, scale in (("original", 1.0), ("scaled", 1.25)):
        module = Model(scale)
        signatures = {"serve": module.f, "serving_default": module.f, "g": module.g}
        tf.saved_model.save(module, str(tmp_path / name), signatures)
    x = np.full((2, 3), 100, np.float32)  # what is made up is smaller
    result = verify_saved_model(tmp_path / "scaled", tmp_path / "original", {"x": x})
    assert result.inputs.startswith("given for serving_default and serve; other signatures: made")
    largest = {output.signature: output.largest_difference for output in result.outputs}
    assert largest == {"g": None, "serve": 25, "serving_default": 25}
