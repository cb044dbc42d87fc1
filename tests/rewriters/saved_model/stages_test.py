"""Every kind of stage, in every form of operation, against the composed dense kernel."""

import numpy as np
import pytest
import tensorflow as tf

from tests.corpus.building import activations, export, variable
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.serving.cc_loader import CcSession

_RANDOM = np.random.default_rng(3)


def stage(*shape: int, **settings) -> Stage:
    return Stage(_RANDOM.standard_normal(shape).astype(np.float32) / np.sqrt(shape[2]), **settings)


def order(size: int) -> np.ndarray:
    return _RANDOM.permutation(size)


NOTHING = (False, False)

DENSE = {
    "two stages": Factorization((stage(1, 1, 12, 5), stage(1, 1, 5, 8, axes=NOTHING))),
    "one stage": Factorization((stage(1, 1, 12, 8),)),
    "three stages": Factorization(
        (stage(1, 1, 12, 5), stage(1, 1, 5, 6, axes=NOTHING), stage(1, 1, 6, 8, axes=NOTHING))
    ),
    "grouped first stage": Factorization(
        (stage(1, 1, 4, 9, groups=3), stage(1, 1, 9, 8, axes=NOTHING))
    ),
}
REORDERED = {
    "orders": Factorization(
        (
            stage(1, 1, 6, 10, groups=2, input_order=order(12)),
            stage(1, 1, 10, 8, axes=NOTHING, input_order=order(10)),
        ),
        output_order=order(8),
    )
}
GROUPED_LAST = {
    "grouped last stage": Factorization(
        (stage(1, 1, 12, 6), stage(1, 1, 3, 8, groups=2, axes=NOTHING))
    )
}
CONV = {
    "taps first": Factorization((stage(3, 2, 12, 5), stage(1, 1, 5, 8, axes=NOTHING))),
    "taps last": Factorization((stage(1, 1, 12, 5, axes=NOTHING), stage(3, 2, 5, 8))),
    "separable": Factorization(
        (stage(3, 1, 12, 5, axes=(True, False)), stage(1, 2, 5, 8, axes=(False, True)))
    ),
    "grouped": Factorization(
        (
            stage(3, 1, 4, 9, axes=(True, False), groups=3),
            stage(1, 2, 9, 8, axes=(False, True)),
        )
    ),
    "depthwise": Factorization(
        (
            stage(1, 1, 12, 6, axes=NOTHING),
            stage(3, 2, 1, 6, groups=6),
            stage(1, 1, 6, 8, axes=NOTHING, input_order=order(6)),
        ),
        output_order=order(8),
    ),
}


def check(tmp_path, function, inputs, kernels, factorization, gradients=True):
    """Compares a rewrite with the original at the factorization's own dense kernel."""
    for kernel in kernels.values():
        kernel.assign(factorization.reconstruct().reshape(kernel.shape))
    compare(tmp_path, function, inputs, kernels, factorization, gradients)


def compare(tmp_path, function, inputs, kernels, factorization, gradients=True):
    export(tmp_path / "source", function, inputs, kernels)
    source = open_saved_model(tmp_path / "source")
    (site,) = source.inspection.sites
    np.testing.assert_allclose(site.kernel, factorization.reconstruct(), rtol=1e-5, atol=1e-6)
    write_saved_model(source, {site.name: factorization}, tmp_path / "out")
    want = function(**{k: tf.constant(v) for k, v in inputs.items()})["y"].numpy()
    with CcSession(str(tmp_path / "out")) as session:
        got = session.run(inputs, "serving_default")["y"]
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)
    if gradients:
        check_gradients(tmp_path, inputs, len(factorization.stages))


def check_gradients(tmp_path, inputs, factors):
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    with tf.GradientTape() as tape:
        outputs = loaded.signatures["serving_default"](
            **{k: tf.constant(v) for k, v in inputs.items()}
        )
        loss = tf.reduce_sum(tf.square(outputs["y"]))
    watched = tape.watched_variables()
    assert len(watched) == factors
    assert all(g is not None for g in tape.gradient(loss, watched))


@pytest.mark.parametrize("name", [*DENSE, *REORDERED, *GROUPED_LAST])
def test_matmul(name, tmp_path):
    w = variable(12, 8)
    factorization = {**DENSE, **REORDERED, **GROUPED_LAST}[name]
    inputs = {"x": activations(4, 12)}
    check(tmp_path, lambda x: {"y": tf.matmul(x, w)}, inputs, {"w": w}, factorization)


@pytest.mark.parametrize("name", [*DENSE, *REORDERED])
def test_matmul_with_the_kernel_on_the_left(name, tmp_path):
    w = variable(8, 12)
    factorization = {**DENSE, **REORDERED}[name]
    w.assign(factorization.reconstruct()[0, 0].T)
    inputs = {"x": activations(4, 12)}
    compare(
        tmp_path,
        lambda x: {"y": tf.matmul(w, x, transpose_b=True)},
        inputs,
        {"w": w},
        factorization,
    )


@pytest.mark.parametrize("name", [*DENSE, *REORDERED, *GROUPED_LAST])
def test_a_tied_kernel_runs_the_same_factors_backwards(name, tmp_path):
    w = variable(12, 8)
    factorization = {**DENSE, **REORDERED, **GROUPED_LAST}[name]
    inputs = {"x": activations(4, 12)}

    def tied(x):
        return {"y": tf.matmul(tf.tanh(tf.matmul(x, w)), w, transpose_b=True)}

    check(tmp_path, tied, inputs, {"w": w}, factorization)


@pytest.mark.parametrize("name", [*DENSE, *REORDERED])
def test_batch_matmul(name, tmp_path):
    w = variable(12, 8)
    factorization = {**DENSE, **REORDERED}[name]
    inputs = {"x": activations(2, 4, 12)}

    def product(x):
        return {"y": tf.raw_ops.BatchMatMulV2(x=x, y=w)}

    check(tmp_path, product, inputs, {"w": w}, factorization)


@pytest.mark.parametrize("name", [*DENSE, *REORDERED])
def test_einsum(name, tmp_path):
    w = variable(12, 8)
    factorization = {**DENSE, **REORDERED}[name]
    inputs = {"x": activations(2, 12, 4)}

    def product(x):
        return {"y": tf.einsum("bct,cd->btd", x, w)}

    check(tmp_path, product, inputs, {"w": w}, factorization)


@pytest.mark.parametrize("settings", [("SAME", (2, 1), (1, 1)), ("VALID", (1, 1), (1, 2))])
@pytest.mark.parametrize("name", CONV)
def test_conv2d(name, settings, tmp_path):
    w = variable(3, 2, 12, 8)
    padding, strides, dilations = settings
    inputs = {"x": activations(2, 7, 9, 12)}

    def convolve(x):
        return {"y": tf.nn.conv2d(x, w, strides, padding, dilations=dilations)}

    # TensorFlow has no gradient of dilated convolutions on CPUs.
    check(tmp_path, convolve, inputs, {"w": w}, CONV[name], gradients=dilations == (1, 1))
