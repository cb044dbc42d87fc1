"""Functions beside the default signature keep their meaning in a rewritten SavedModel."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.corpus import saved_models, saved_models_calls, saved_models_keras, saved_models_kernels
from tests.corpus.building import activations, export, variable
from tests.rewriters.saved_model.contract_test import run_cc, truncated
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model


def rewrite(build, tmp_path: Path, keep: float | None = None):
    """Returns the original and the rewritten model, both loaded, and the inputs."""
    inputs = build(tmp_path / "source")
    source = open_saved_model(tmp_path / "source")
    factorizations = {site.name: truncated(site, keep) for site in source.inspection.sites}
    write_saved_model(source, factorizations, tmp_path / "out")
    run_cc(tmp_path / "out", inputs)
    source, out = (tf.saved_model.load(str(tmp_path / name)) for name in ("source", "out"))
    return source, out, inputs


def test_a_training_step_learns_the_same(tmp_path):
    source, out, inputs = rewrite(saved_models.training_step, tmp_path)
    x = tf.constant(inputs["x"])
    for _ in range(3):
        want, got = (model.signatures["train"](x=x)["loss"] for model in (source, out))
        np.testing.assert_allclose(got, want, rtol=1e-4)
    assert (
        source.w.numpy().tobytes()
        != tf.saved_model.load(str(tmp_path / "source")).w.numpy().tobytes()
    )
    np.testing.assert_allclose(out.w, source.w, rtol=1e-4, atol=1e-6)


def test_regularisation_losses_read_the_product_of_the_factors(tmp_path):
    source, out, _ = rewrite(saved_models_keras.tf_keras_regularized, tmp_path)
    want = [float(loss()) for loss in source.regularization_losses]
    got = [float(loss()) for loss in out.regularization_losses]
    assert len(want) == 2
    np.testing.assert_allclose(got, want, rtol=1e-5)
    truncated_loss = rewrite(saved_models_keras.tf_keras_regularized, tmp_path / "half", 0.5)[1]
    assert float(truncated_loss.regularization_losses[0]()) > 0


def test_a_branch_of_a_polymorphic_function_keeps_its_meaning(tmp_path):
    source, out, _ = rewrite(saved_models.polymorphic_function, tmp_path)
    x = tf.constant(activations(4, 96))
    for settings in ({}, {"scale": 3.0}):
        np.testing.assert_allclose(
            out.apply(x, **settings), source.apply(x, **settings), rtol=1e-4, atol=1e-5
        )
    assert out.apply(x, training=True).shape == [4, 128]


def test_factors_are_trainable_as_the_kernel_was(tmp_path):
    frozen, tuned = variable(96, 64, trainable=False, name="frozen"), variable(64, 80, name="tuned")

    def build(path):
        function = lambda x: {"y": tf.matmul(tf.matmul(x, frozen), tuned)}  # noqa: E731
        return export(path, function, {"x": activations(3, 96)}, {"a": frozen, "b": tuned})

    _, out, inputs = rewrite(build, tmp_path, 0.5)
    assert not out.a_factor_0.trainable and not out.a_factor_1.trainable
    assert out.b_factor_0.trainable and out.b_factor_1.trainable
    assert out.b_factor_0.name == "tuned_factor_0:0"
    with tf.GradientTape() as tape:
        loss = tf.nn.l2_loss(out.serve(tf.constant(inputs["x"]))["y"])
    assert len(tape.watched_variables()) == 2
    assert all(g is not None for g in tape.gradient(loss, tape.watched_variables()))


def test_a_rewritten_model_can_be_tuned_and_saved_again(tmp_path):
    _, out, inputs = rewrite(saved_models_keras.keras3_export, tmp_path, 0.3)
    (name,) = inputs
    optimizer_rate, losses = 0.01, []
    target = tf.one_hot([1, 2], 10)
    variables = list(out.trainable_variables)
    assert len(variables) == 2 + 4 * 3 + 0  # gamma and beta; for each layer two factors, a bias
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = tf.nn.l2_loss(out.serve(tf.constant(inputs[name])) - target)
        for variable_, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable_.assign_sub(optimizer_rate * gradient)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    tf.saved_model.save(out, str(tmp_path / "tuned"), signatures=out.signatures)
    run_cc(tmp_path / "tuned", inputs)
    tuned = tf.saved_model.load(str(tmp_path / "tuned")).signatures["serving_default"]
    np.testing.assert_allclose(
        tuned(**{name: tf.constant(inputs[name])})["output_0"],
        out.serve(tf.constant(inputs[name])),
        rtol=1e-4,
    )


def test_lists_hold_the_factors_in_place_of_the_kernel(tmp_path):
    _, out, _ = rewrite(saved_models.lists_dicts_and_tuples_of_variables, tmp_path, 0.5)
    assert [tuple(v.shape) for v in out.stack] == [(96,), (96, 27), (27, 128), (128, 27), (27, 96)]
    assert sorted(out.by_name) == ["a_factor_0", "a_factor_1", "bias"]
    assert len(out.pair) == 3


def test_unchanged_kernels_stay_bit_for_bit(tmp_path):
    saved_models_calls.signatures_that_share_kernels(tmp_path / "source")
    source = open_saved_model(tmp_path / "source")
    chosen = [site for site in source.inspection.sites if site.name == "w"]
    write_saved_model(source, {"w": truncated(chosen[0], 0.5)}, tmp_path / "out")
    old, new = (tf.saved_model.load(str(tmp_path / n)) for n in ("source", "out"))
    assert old.v.numpy().tobytes() == new.v.numpy().tobytes()
    x = tf.constant(activations(3, 96))
    for name in ("embed", "score"):
        a, b = old.signatures[name](x=x), new.signatures[name](x=x)
        for key in a:
            assert a[key].numpy().tobytes() == b[key].numpy().tobytes()


def test_a_part_of_a_split_kernel_is_kept_without_the_rest(tmp_path):
    inputs = saved_models_kernels.split_kernel(tmp_path / "source")
    source = open_saved_model(tmp_path / "source")
    first = source.inspection.sites[0]
    write_saved_model(source, {first.name: truncated(first)}, tmp_path / "out")
    assert (
        "fused/.ATTRIBUTES/VARIABLE_VALUE"
        not in open_saved_model(tmp_path / "out").files.tensor_shapes
    )
    old, new = (tf.saved_model.load(str(tmp_path / n)) for n in ("source", "out"))
    x = tf.constant(inputs["x"])
    np.testing.assert_allclose(new.serve(x)["y"], old.serve(x)["y"], rtol=1e-4, atol=1e-5)


def test_the_saver_of_the_result_saves_every_factor(tmp_path):
    w = variable(96, 64)
    export(tmp_path / "in", lambda x: {"y": x @ w}, {"x": activations(2, 96)}, {"w": w})
    source = open_saved_model(tmp_path / "in")
    (site,) = source.inspection.sites
    write_saved_model(source, {site.name: truncated(site, 0.5)}, tmp_path / "out")
    with tf.compat.v1.Graph().as_default(), tf.compat.v1.Session() as session:
        saver = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "out")).saver_def
        prefix = {saver.filename_tensor_name: str(tmp_path / "checkpoint")}
        session.run(saver.save_tensor_name, prefix)
    want = dict(tf.train.list_variables(str(tmp_path / "out" / "variables" / "variables")))
    assert dict(tf.train.list_variables(str(tmp_path / "checkpoint"))) == want
    assert sum("w_factor" in name for name in want) == 2
