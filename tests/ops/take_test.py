import numpy as np
import pytest
import tensorflow as tf

from tfapprox.ops import take as take_module
from tfapprox.ops.draw import Draw
from tfapprox.ops.take import spread, take


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("one_hot", [True, False])
@pytest.mark.parametrize("indices", [[2, 0], [1, 1, 2]])
def test_take_gathers_and_its_gradient_adds_back(axis, one_hot, indices, monkeypatch):
    monkeypatch.setattr(take_module, "_one_hot_is_faster", lambda: one_hot)
    x = tf.random.stateless_normal([3, 4, 5], [1, 2], dtype=tf.float64)
    draw = Draw(tf.constant(indices), None, distinct=len(set(indices)) == len(indices))
    with tf.GradientTape() as tape:
        tape.watch(x)
        taken = take(x, draw, axis)
        weights = tf.random.stateless_normal(taken.shape, [3, 4], dtype=tf.float64)
        total = tf.reduce_sum(weights * taken)
    np.testing.assert_array_equal(taken, np.take(x, indices, axis))
    expected = np.zeros(x.shape)
    for position, index in enumerate(indices):
        target = [slice(None)] * 3
        target[axis] = index
        expected[tuple(target)] += np.take(weights, position, axis)
    np.testing.assert_allclose(tape.gradient(total, x), expected, rtol=1e-12)


def test_spread_of_taken_keeps_only_the_taken_entries():
    draw = Draw(tf.constant([1, 3]), None, distinct=True)
    x = tf.reshape(tf.range(8.0), [2, 4])
    np.testing.assert_array_equal(
        spread(take(x, draw, 1), draw, 4, 1), [[0, 1, 0, 3], [0, 5, 0, 7]]
    )
