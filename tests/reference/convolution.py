"""A convolution as its definition says it: loops over positions, taps and channels.

TensorFlow's rule for SAME padding is written out from its documentation, apart from
the package's own geometry.
"""

import itertools

import numpy as np


def pads_of(padding, axis, length, taps, stride, dilation):
    """Zeros before and after the input along one axis."""
    if padding == "VALID":
        return 0, 0
    if padding == "SAME":
        outputs = (length + stride - 1) // stride
        reach = 1 + (taps - 1) * dilation
        total = max((outputs - 1) * stride + reach - length, 0)
        return total // 2, total - total // 2
    return padding[axis]


def convolve(image, kernel, strides=(1, 1), dilations=(1, 1), padding="VALID", groups=1):
    """Returns the output [height, width, out] and the number of multiply-adds.

    Args:
      image: [height, width, in].
      kernel: [taps, taps, in / groups, out].
    """
    height, width, fan_in, out_channels = kernel.shape
    pads = [
        pads_of(
            padding, axis, image.shape[axis], kernel.shape[axis], strides[axis], dilations[axis]
        )
        for axis in (0, 1)
    ]
    padded = np.pad(image, (*pads, (0, 0)))
    sizes = []
    for axis in (0, 1):
        starts, start = 0, 0
        while start + (kernel.shape[axis] - 1) * dilations[axis] < padded.shape[axis]:
            starts, start = starts + 1, start + strides[axis]
        sizes.append(starts)
    output, count = np.zeros((*sizes, out_channels)), 0
    fan_out = out_channels // groups
    for y, x, out in itertools.product(range(sizes[0]), range(sizes[1]), range(out_channels)):
        first_channel = out // fan_out * fan_in
        for tap_y, tap_x, channel in itertools.product(range(height), range(width), range(fan_in)):
            value = padded[
                y * strides[0] + tap_y * dilations[0],
                x * strides[1] + tap_x * dilations[1],
                first_channel + channel,
            ]
            output[y, x, out] += value * kernel[tap_y, tap_x, channel, out]
            count += 1
    return output, count


def convolve_chain(image, factorization, geometry):
    """Returns the output of stage after stage, and the multiply-adds of all of them."""
    total = 0
    for stage in factorization.stages:
        placed = geometry.restrict(stage.axes, image.shape[:2])
        image, count = convolve(
            image, stage.kernel, placed.strides, placed.dilations, placed.padding, stage.groups
        )
        total += count
    return image, total
