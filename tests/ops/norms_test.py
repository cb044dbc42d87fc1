import numpy as np
import pytest
import tensorflow as tf

from tfapprox.ops import norms
from tfapprox.ops.norms import channel_norms, column_norms, kernel_channel_norms, row_norms


@pytest.mark.parametrize("jit", [False, True])
def test_norms_are_those_of_the_axes_they_name(jit):
    x = tf.random.stateless_normal([5, 7], [0, 1])
    kernel = tf.random.stateless_normal([3, 2, 4, 6], [0, 2])

    @tf.function(jit_compile=jit)
    def run():
        return row_norms(x), column_norms(x), channel_norms(kernel), kernel_channel_norms(kernel)

    rows, columns, last, inputs = run()
    np.testing.assert_allclose(rows, np.linalg.norm(x, axis=1), rtol=1e-5)
    np.testing.assert_allclose(columns, np.linalg.norm(x, axis=0), rtol=1e-5)
    squares = np.square(kernel)
    np.testing.assert_allclose(last, np.sqrt(squares.sum((0, 1, 2))), rtol=1e-5)
    np.testing.assert_allclose(inputs, np.sqrt(squares.sum((0, 1, 3))), rtol=1e-5)


@pytest.mark.parametrize("shape", [(11, 3), (64, 3), (1, 40)])
def test_norms_of_arrays_taken_in_pieces_are_those_of_the_whole(shape, monkeypatch):
    monkeypatch.setattr(norms, "_PIECE", 10)
    monkeypatch.setattr(norms, "_MOST_PIECES", 7)
    x = tf.random.stateless_normal(shape, [0, 3])
    assert 1 <= len(norms._pieces(x)) <= 7
    np.testing.assert_allclose(column_norms(x), np.linalg.norm(x, axis=0), rtol=1e-5)
    np.testing.assert_allclose(row_norms(x), np.linalg.norm(x, axis=1), rtol=1e-5)


def test_norms_take_half_precision_and_any_number_of_rows_and_columns():
    run = tf.function(row_norms, input_signature=[tf.TensorSpec([None, None], tf.float16)])
    np.testing.assert_allclose(run(tf.fill([2, 9], tf.constant(300, tf.float16))), [900, 900])
