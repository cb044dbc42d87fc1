import numpy as np
import pytest
import tensorflow as tf

from tfapprox.ops import take as take_module
from tfapprox.ops.draw import Draw
from tfapprox.ops.take import spread, take


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("form", ["product", "moving", "xla"])
@pytest.mark.parametrize("indices", [[2, 0], [1, 1, 2]])
def test_take_gathers_and_its_gradient_adds_back(axis, form, indices, monkeypatch):
    monkeypatch.setattr(take_module, "_PRODUCT_SIZE", 0 if form == "moving" else 10)
    x = tf.random.stateless_normal([3, 4, 5], [1, 2], dtype=tf.float64)
    draw = Draw(tf.constant(indices), None, distinct=len(set(indices)) == len(indices))
    shape = [len(indices) if i == axis else n for i, n in enumerate((3, 4, 5))]
    weights = tf.random.stateless_normal(shape, [3, 4], dtype=tf.float64)

    @tf.function(jit_compile=form == "xla")
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            taken = take(x, draw, axis)
            total = tf.reduce_sum(weights * taken)
        return taken, tape.gradient(total, x)

    taken, gradient = run(x)
    np.testing.assert_array_equal(taken, np.take(x, indices, axis))
    expected = np.zeros(x.shape)
    for position, index in enumerate(indices):
        target = [slice(None)] * 3
        target[axis] = index
        expected[tuple(target)] += np.take(weights, position, axis)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_spread_of_taken_keeps_only_the_taken_entries():
    draw = Draw(tf.constant([1, 3]), None, distinct=True)
    x = tf.reshape(tf.range(8.0), [2, 4])
    np.testing.assert_array_equal(
        spread(take(x, draw, 1), draw, 4, 1), [[0, 1, 0, 3], [0, 5, 0, 7]]
    )


def test_the_innermost_axis_is_gathered_within_xla_and_multiplied_outside(monkeypatch):
    draw = Draw(tf.constant([1, 3]), None, distinct=True)
    x = tf.reshape(tf.range(8.0), [2, 4])
    monkeypatch.setattr(take_module.tf, "one_hot", lambda *args, **kwargs: tf.zeros([4, 2]))
    for jit, expected in ((False, 0.0), (True, 1.0)):
        taken = tf.function(lambda x: take(x, draw, 1), jit_compile=jit)(x)
        assert float(taken[0, 0]) == expected
