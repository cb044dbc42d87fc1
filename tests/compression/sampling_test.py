"""Column-row-sampled SavedModels against the sampled products computed by numpy."""

import numpy as np
import pytest
import tensorflow as tf

from tests.corpus.building import activations, export, variable
from tfapprox.compression import compress_saved_model
from tfapprox.compression.sampling import sample_saved_model
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError
from tfapprox.rewriters.plan import EXTRA, Plan
from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.rewriters.saved_model.restoring import restore_saved_model
from tfapprox.selection.problem import Budget
from tfapprox.serving.cc_loader import CcSession


def heaviest(columns: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Returns the pairs with the largest product of norms; [n, ...] and [n, ...]."""
    norms = [np.linalg.norm(a.reshape(len(a), -1), axis=1) for a in (columns, rows)]
    return np.argsort(-norms[0] * norms[1])[:count]


def skewed(*shape: int) -> np.ndarray:
    """Returns activations whose channels, the last axis, differ in size."""
    return activations(*shape) * np.linspace(0.1, 2, shape[-1], dtype=np.float32)


def run_both(path, inputs):
    with CcSession(str(path)) as session:
        cxx = session.run(inputs, "serving_default")["y"]
    loaded = tf.saved_model.load(str(path))
    python = loaded.signatures["serving_default"](**{k: tf.constant(v) for k, v in inputs.items()})
    np.testing.assert_allclose(cxx, python["y"].numpy(), rtol=1e-5, atol=1e-6)
    return cxx


def sampled_once(tmp_path, function, x, w, ratio=0.5, variant="topk"):
    export(tmp_path / "source", function, {"x": x}, {"w": w})
    result = sample_saved_model(
        tmp_path / "source", tmp_path / "out", ratio, variant, inputs={"x": x}
    )
    assert result.replaced == 1
    return result, run_both(tmp_path / "out", {"x": x})


def agree(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_matmul_keeps_the_heaviest_pairs(tmp_path):
    x, w = skewed(6, 24), variable(24, 16)
    result, got = sampled_once(tmp_path, lambda x: {"y": tf.matmul(x, w)}, x, w)
    pairs = heaviest(x.T, w.numpy(), 12)
    agree(got, x[:, pairs] @ w.numpy()[pairs])
    assert result.before.macs - result.after.macs == 12 * 16 - 24
    (output,) = result.verification.outputs
    assert 0.01 < output.relative_error < 0.5


def test_a_transposed_kernel_is_sampled_along_what_is_summed(tmp_path):
    x, w = skewed(6, 24), variable(16, 24)
    _, got = sampled_once(tmp_path, lambda x: {"y": tf.matmul(x, w, transpose_b=True)}, x, w)
    pairs = heaviest(x.T, w.numpy().T, 12)
    agree(got, x[:, pairs] @ w.numpy()[:, pairs].T)


def test_einsum_keeps_the_heaviest_pairs(tmp_path):
    x, w = skewed(2, 5, 24), variable(24, 4, 8)
    _, got = sampled_once(tmp_path, lambda x: {"y": tf.einsum("btd,dhk->bthk", x, w)}, x, w)
    pairs = heaviest(np.moveaxis(x, -1, 0), w.numpy(), 12)
    agree(got, np.einsum("btd,dhk->bthk", x[..., pairs], w.numpy()[pairs]))


def test_batch_matmul_keeps_the_heaviest_pairs(tmp_path):
    x, w = skewed(2, 5, 24), variable(24, 16)
    _, got = sampled_once(tmp_path, lambda x: {"y": tf.raw_ops.BatchMatMulV2(x=x, y=w)}, x, w)
    pairs = heaviest(np.moveaxis(x, -1, 0), w.numpy(), 12)
    agree(got, x[..., pairs] @ w.numpy()[pairs])


def test_conv2d_keeps_the_heaviest_input_channels(tmp_path):
    x, w = skewed(2, 7, 9, 24), variable(3, 2, 24, 8)
    settings = {"strides": (2, 1), "padding": "SAME"}
    result, got = sampled_once(tmp_path, lambda x: {"y": tf.nn.conv2d(x, w, **settings)}, x, w)
    pairs = heaviest(np.moveaxis(x, -1, 0), np.moveaxis(w.numpy(), 2, 0), 12)
    agree(got, tf.nn.conv2d(x[..., pairs], w.numpy()[:, :, pairs], **settings).numpy())
    assert result.after.macs == result.before.macs // 2 + 7 * 9 * 24


def test_drawn_pairs_follow_their_norms_and_repeat(tmp_path):
    w = variable(24, 24)
    w.assign(np.eye(24, dtype=np.float32))  # a result shows which pairs were drawn
    x = np.full((3, 24), 1e-6, np.float32)
    x[:, ::2] = 1.0
    _, got = sampled_once(tmp_path, lambda x: {"y": tf.matmul(x, w)}, x, w, 0.25, "sampled")
    drawn = np.flatnonzero(got[0])
    assert len(drawn) == 6 and not (drawn % 2).any()
    assert drawn.tolist() != list(range(0, 12, 2)), "no noise: the first of equal pairs"


def test_every_kernel_gets_gradients_where_it_was_read(tmp_path):
    x, w = skewed(6, 24), variable(24, 16)
    sampled_once(tmp_path, lambda x: {"y": tf.matmul(x, w)}, x, w)
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(loaded.signatures["serving_default"](x=tf.constant(x))["y"])
    (variable_read,) = tape.watched_variables()
    gradient = tf.convert_to_tensor(tape.gradient(loss, variable_read)).numpy()
    assert np.any(gradient != 0, axis=1).sum() == 12


def test_a_sampled_model_opens_again_with_nothing_left_to_factorize(tmp_path):
    x, w = skewed(6, 24), variable(24, 16)
    sampled_once(tmp_path, lambda x: {"y": tf.matmul(x, w)}, x, w)
    inspection = open_saved_model(tmp_path / "out").inspection
    assert inspection.sites == () and inspection.params == 24 * 16


@pytest.mark.parametrize("ratio", [0.0, 1.5])
def test_a_ratio_that_is_none_is_refused(tmp_path, ratio):
    with pytest.raises(UserError, match="ratio"):
        sample_saved_model(tmp_path, tmp_path / "out", ratio)


def test_what_sampling_does_not_make_cheaper_is_refused_with_the_reason(tmp_path):
    w = variable(24, 2)
    export(tmp_path / "source", lambda x: {"y": x @ w}, {"x": activations(3, 24)}, {"w": w})
    with pytest.raises(UserError, match="cost more than sampling saves"):
        sample_saved_model(tmp_path / "source", tmp_path / "out", 0.5)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x, w: tf.matmul(x, w), ((6, 24), (24, 16))),
        (lambda x, w: tf.matmul(x, w, transpose_b=True), ((6, 24), (16, 24))),
        (lambda x, w: tf.matmul(w, x, transpose_b=True), ((6, 24), (16, 24))),
        (lambda x, w: tf.raw_ops.BatchMatMulV2(x=x, y=w), ((2, 5, 24), (24, 16))),
        (lambda x, w: tf.einsum("btd,dhk->bthk", x, w), ((2, 5, 24), (24, 4, 8))),
        (lambda x, w: tf.einsum("dhk,btd->bthk", w, x), ((2, 5, 24), (24, 4, 8))),
        (lambda x, w: tf.nn.conv2d(x, w, (2, 1), "SAME"), ((2, 7, 9, 24), (3, 2, 24, 8))),
    ],
)
@pytest.mark.parametrize("variant", ["topk", "sampled"])
def test_restoring_gives_the_exact_operation_and_kernel_back(tmp_path, function, shapes, variant):
    if variant == "sampled" and len(shapes[0]) != 2:
        return  # the draw is the same for every form
    x, w = skewed(*shapes[0]), variable(*shapes[1])
    export(tmp_path / "source", lambda x: {"y": function(x, w)}, {"x": x}, {"w": w})
    sample_saved_model(tmp_path / "source", tmp_path / "out", 0.5, variant)
    restored = restore_saved_model(tmp_path / "out", tmp_path / "dense")
    assert len(restored.restored) == 1
    agree(run_both(tmp_path / "dense", {"x": x}), function(x, w.numpy()).numpy())
    old, new = (open_saved_model(tmp_path / name) for name in ("source", "dense"))
    assert old.inspection.sites[0].kernel.tobytes() == new.inspection.sites[0].kernel.tobytes()
    assert old.files.tensor_shapes.keys() == new.files.tensor_shapes.keys()
    for body in old.functions.values():
        if "traced" not in body.name:
            ops = [{n.op for n in m.functions[body.name].nodes.values()} for m in (old, new)]
            assert ops[0] == ops[1] - {"Const", "Reshape"}  # an einsum's kernel has two axes


def test_the_plan_travels_inside_and_can_be_applied_again(tmp_path):
    x, w = skewed(6, 24), variable(24, 16)
    _, got = sampled_once(tmp_path, lambda x: {"y": tf.matmul(x, w)}, x, w)
    plan = Plan.from_json((tmp_path / "out" / EXTRA / "plan.json").read_text())
    (choice,) = plan.choices.values()
    assert choice.settings["pairs"] == 12
    config = CompressionConfig(Budget("macs", keep=1.0))
    report = compress_saved_model(
        tmp_path / "source", tmp_path / "same", config, plan=plan, batch_sizes=()
    )
    assert report.before.macs - report.after.macs == 12 * 16 - 24
    np.testing.assert_array_equal(run_both(tmp_path / "same", {"x": x}), got)
