import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.reference.calibration import patches
from tests.reference.strategies import geometries
from tfapprox.calibration.patches import patch_rows, position_count


@given(geometries(), st.integers(1, 3), st.integers(1, 3))
def test_rows_are_the_patches_of_the_convolution_in_order(geometry, height, width):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, *geometry.input_size, 3))
    count = position_count(images.shape, (height, width), geometry)
    assume(count)
    expected = patches(
        images, (height, width), geometry.strides, geometry.dilations, geometry.padding
    )
    np.testing.assert_array_equal(patch_rows(images, (height, width), geometry), expected)
    chosen = rng.choice(count, min(3, count), replace=False)
    np.testing.assert_array_equal(
        patch_rows(images, (height, width), geometry, chosen), expected[chosen]
    )
