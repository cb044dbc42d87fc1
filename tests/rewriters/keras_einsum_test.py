import numpy as np
import pytest

from tfapprox.rewriters.keras_einsum import read_equation


@pytest.mark.parametrize(
    ("equation", "inputs", "kernel"),
    [
        ("ab,bc->ac", (2, 3), (3, 4)),
        ("abc,cde->abde", (2, 3, 4), (4, 5, 6)),
        ("aecd,cdf->aef", (2, 3, 4, 5), (4, 5, 6)),
        ("abc,dec->abde", (2, 3, 4), (5, 6, 4)),
        ("...x,xy->...y", (2, 3, 4), (4, 5)),
    ],
)
def test_a_plain_contraction_is_one_matrix_product(equation, inputs, kernel):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=inputs), rng.normal(size=kernel)
    contraction = read_equation(equation)
    matrix = contraction.flatten_kernel(w)
    kept = x.ndim - contraction.contracted_axes
    product = x.reshape(*x.shape[:kept], -1) @ matrix
    expected = np.einsum(equation, x, w)
    np.testing.assert_allclose(product.reshape(expected.shape), expected)


@pytest.mark.parametrize(
    "equation",
    ["abc,bd->adc", "abc,acd->abd", "ab,bc->ca", "ab,b->a", "abc,cd->ad", "ab,bcc->ac"],
)
def test_anything_else_is_left_alone(equation):
    assert read_equation(equation) is None


def test_free_labels_are_free():
    contraction = read_equation("zyx,xwv->zywv")
    assert not set(contraction.labels_free(2)) & set("vwxyz")
