"""Distillation nears the targets, never ends worse than it began, and goes on where it was."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.training.adam import Adam
from tfapprox.training.distillation import Example, collect_examples, distill, held_back
from tfapprox.training.distillation_config import Distillation, DistillationConfig
from tfapprox.training.distillation_state import RunFolder
from tfapprox.training.output_loss import choose_losses, relative_error


def linear(seed=0, rank=2):
    """Returns a student x @ a @ b of low rank, its variables, and batches of x @ w."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((6, 5)).astype(np.float32)
    u, s, v = np.linalg.svd(w, full_matrices=False)
    variables = {
        "a": tf.Variable((u[:, :rank] * s[:rank]).astype(np.float32)),
        "b": tf.Variable(v[:rank].astype(np.float32)),
    }
    # Unlike the factors, which are best for white inputs, the data favour some directions.
    spread = np.diag([5, 3, 1, 1, 0.3, 0.1]).astype(np.float32) @ rng.standard_normal((6, 6))
    inputs = [(rng.standard_normal((8, 6)) @ spread).astype(np.float32) for _ in range(5)]
    data = [Example({"x": x}, {"y": x @ w}) for x in inputs]
    return lambda i: {"y": i["x"] @ variables["a"] @ variables["b"]}, variables, data


CONFIG = DistillationConfig(60, learning_rate=0.05)


def test_outputs_come_nearer_and_the_best_step_is_kept():
    student, variables, data = linear()
    result = distill(student, variables, data, CONFIG)
    assert result.loss_after < 0.8 * result.loss_before
    assert result.error_after < result.error_before
    assert (result.batches, result.held_back, result.steps) == (4, 1, 60)
    _, (place,) = held_back(5, CONFIG.seed)
    judged = data[place]
    output = student({"x": tf.constant(judged.inputs["x"])})["y"].numpy()
    error = relative_error("y", [{"y": output}], [judged.targets])
    assert error == pytest.approx(result.error_after, rel=1e-5)
    assert Distillation.from_json(result.to_json()) == result


def test_training_that_does_harm_is_undone():
    student, variables, data = linear()
    before = {name: v.numpy() for name, v in variables.items()}
    result = distill(student, variables, data, DistillationConfig(5, learning_rate=1e3))
    assert result.best_step == 0 and "untrained" in result.notes[-1]
    assert result.loss_after == result.loss_before
    for name, value in before.items():
        np.testing.assert_array_equal(variables[name].numpy(), value)


def test_a_loss_that_is_not_finite_ends_the_training():
    student, variables, data = linear()
    seen = []

    def progress(phase, done, total):
        seen.append(done)

    broken = [dataclasses.replace(e, inputs={"x": e.inputs["x"] * np.float32(1e30)}) for e in data]
    result = distill(student, variables, [*broken[:-1], data[-1]], CONFIG, progress=progress)
    assert "not finite at step" in result.notes[0] and result.steps < 60
    assert all(np.isfinite(v.numpy()).all() for v in variables.values())


def test_a_killed_run_goes_on_exactly(tmp_path):
    student, variables, data = linear()
    whole = distill(student, variables, data, CONFIG)
    wanted = {name: v.numpy() for name, v in variables.items()}

    class KilledError(Exception):
        pass

    def kill(phase, done, total):
        if done == 33:
            raise KilledError

    student, variables, data = linear()
    folder = RunFolder(tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr("tfapprox.training.distillation._SAVE_SECONDS", -1.0)
        distill(student, variables, data, CONFIG, folder, kill)
    assert len(list(tmp_path.iterdir())) == 1

    student, variables, data = linear()
    steps = []
    resumed = distill(student, variables, data, CONFIG, folder, lambda p, d, t: steps.append(d))
    assert min(steps) == 33 and resumed == whole
    for name, value in wanted.items():
        np.testing.assert_array_equal(variables[name].numpy(), value)

    # Another run in the same folder starts from the beginning, beside it.
    steps.clear()
    student, variables, data = linear(seed=1)
    distill(student, variables, data, CONFIG, folder, lambda p, d, t: steps.append(d))
    assert min(steps) == 0 and len(list(tmp_path.iterdir())) == 2
    for file in tmp_path.iterdir():
        file.write_bytes(b"PK\x03\x04 cut")
    student, variables, data = linear(seed=1)
    with pytest.raises(UserError, match="can't be read"):
        distill(student, variables, data, CONFIG, folder)


def test_data_that_do_not_serve_are_refused():
    student, variables, data = linear()
    with pytest.raises(UserError, match="make up but one"):
        distill(student, variables, data[:1], CONFIG)
    words = [Example(e.inputs, {"y": np.zeros(8, int)}) for e in data]
    with pytest.raises(UserError, match="no output"):
        distill(student, variables, words, CONFIG)
    infinite = [Example(e.inputs, {"y": e.targets["y"] + np.inf}) for e in data[:2]]
    with pytest.raises(UserError, match="not finite"):
        distill(student, variables, infinite, CONFIG)
    with pytest.raises(UserError, match="no gradient"):
        distill(lambda i: {"y": i["x"][:, :5]}, variables, data, CONFIG)


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"strategy": "many"}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError):
        DistillationConfig(**{"steps": 1, **settings})


def test_the_rate_rises_and_falls():
    rates = [DistillationConfig(100, learning_rate=1.0).rate(step) for step in range(100)]
    assert 0 < rates[0] < rates[4] and max(rates) <= 1
    assert np.all(np.diff(rates[5:]) < 0) and rates[-1] < 1e-3


def test_memory_bounds_the_number_of_batches(monkeypatch):
    monkeypatch.setattr("tfapprox.training.distillation._MEMORY_BYTES", 1000)
    batches = [{"x": np.zeros(100, np.float32)}] * 5
    found, note = collect_examples(batches, lambda inputs: {"y": inputs["x"]})
    assert len(found) == 2 and "first 2 batches" in note


def test_distributions_are_told_from_other_outputs():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((4, 3)).astype(np.float32)
    odds = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    outputs = {
        "odds": odds, "scores": scores, "half": odds.astype(np.float16),
        "one": np.ones((4, 1), np.float32), "classes": np.arange(4), "wave": scores * 1j,
    }  # fmt: skip
    kinds = {loss.key: loss.kind for loss in choose_losses([outputs, outputs])}
    assert kinds == {
        "odds": "divergence", "half": "divergence", "scores": "squares",
        "one": "squares", "wave": "squares",
    }  # fmt: skip


def test_losses_are_what_their_formulas_say():
    rng = np.random.default_rng(0)
    t, y = rng.standard_normal((2, 4, 3)).astype(np.float32)
    (squares,) = choose_losses([{"y": t}])
    wanted = np.linalg.norm(y - t) ** 2 / np.linalg.norm(t) ** 2
    assert float(squares(tf.constant(y), tf.constant(t))) == pytest.approx(wanted, rel=1e-5)
    (wave,) = choose_losses([{"y": t * 1j}])
    assert float(wave(tf.constant(y * 1j), tf.constant(t * 1j))) == pytest.approx(wanted, rel=1e-5)
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (t, y))
    (divergence,) = choose_losses([{"y": p}])
    wanted = np.mean(np.sum(p * np.log(p / q), axis=1))
    assert float(divergence(tf.constant(q), tf.constant(p))) == pytest.approx(wanted, rel=1e-4)


def test_adam_is_algorithm_1_and_leaves_everything_at_rate_0():
    rng = np.random.default_rng(0)
    value = rng.standard_normal(4)
    variable = tf.Variable(value)
    half = tf.Variable(tf.cast(value, tf.bfloat16))
    adam = Adam([variable, half])
    m = v = np.zeros(4)
    for step in range(1, 6):
        g = rng.standard_normal(4)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        # The paper's epsilon is beside the corrected root; the two differ by 1e-8 / root.
        value = value - 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        adam.apply([tf.constant(g), tf.constant(g)], tf.constant(0.1), tf.constant(float(step)))
    np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5)
    np.testing.assert_allclose(half.numpy().astype(float), value, atol=0.05)
    before, moments = variable.numpy(), adam.values()
    nan = tf.constant(np.full(4, np.nan))
    adam.apply([nan, nan], tf.constant(0.0), tf.constant(6.0))
    np.testing.assert_array_equal(variable.numpy(), before)
    for name, moment in adam.values().items():
        np.testing.assert_array_equal(moment, moments[name])
