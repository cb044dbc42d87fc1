import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.convolution import convolve
from tests.reference.strategies import geometries
from tfapprox.accounting.geometry import Geometry


@given(geometries(), st.integers(1, 4), st.integers(1, 4))
def test_output_size_is_that_of_the_convolution(geometry, height, width):
    image = np.zeros((*geometry.input_size, 1))
    kernel = np.zeros((height, width, 1, 1))
    output, _ = convolve(image, kernel, geometry.strides, geometry.dilations, geometry.padding)
    assert geometry.output_size((height, width)) == output.shape[:2]


def test_an_axis_that_is_not_held_is_left_as_it_is():
    geometry = Geometry((2, 3), (4, 5), ((1, 2), (3, 4)), (9, 8))
    placed = geometry.restrict((True, False), (9, 7))
    assert placed == Geometry((2, 1), (4, 1), ((1, 2), (0, 0)), (9, 7))
    assert placed.output_size((1, 1))[1] == 7


@pytest.mark.parametrize(
    "fields",
    [
        {"strides": (0, 1)},
        {"dilations": (1, 0)},
        {"input_size": (-1, 1)},
        {"padding": "same"},
    ],
)
def test_nonsense_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Geometry(**fields)
