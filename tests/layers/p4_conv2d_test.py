import numpy as np
import pytest

from tfapprox.layers.p4_conv2d import P4Conv2D

IMAGES = np.random.default_rng(0).normal(size=(2, 7, 7, 8)).astype(np.float32)


def turn(x, turns=1):
    """Rotates p4 feature maps: the plane turns, the orientations move on."""
    maps = x.reshape(*x.shape[:3], -1, 4)
    return np.roll(np.rot90(maps, turns, axes=(1, 2)), turns, axis=4).reshape(x.shape)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotating_the_input_rotates_the_output(turns):
    layer = P4Conv2D(12, 3)
    expected = turn(np.asarray(layer(IMAGES)), turns)
    layer.bias.assign(np.zeros(3))
    np.testing.assert_allclose(
        layer(np.ascontiguousarray(turn(IMAGES, turns))), expected, atol=1e-5
    )


def test_orientation_zero_applies_the_stored_kernel():
    layer = P4Conv2D(12, 3)
    layer(IMAGES)
    stored = np.asarray(layer.kernel).reshape(3, 3, 8, 3)
    np.testing.assert_array_equal(np.asarray(layer.full_kernel())[..., ::4], stored)


@pytest.mark.parametrize(("strides", "padding"), [(1, "same"), (2, "same"), ((1, 2), "valid")])
def test_the_output_shape_is_the_declared_one(strides, padding):
    layer = P4Conv2D(12, 3, strides, padding)
    assert tuple(layer(IMAGES).shape) == layer.compute_output_shape(IMAGES.shape)


def test_channels_must_come_in_fours():
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        P4Conv2D(6, 3)
    with pytest.raises(ValueError, match="multiple of 4, got 7"):
        P4Conv2D(8, 3)(IMAGES[..., :7])
