"""Convolution by its plain definition, one input channel at a time."""

import numpy as np


def pads(size, taps, stride, dilation, padding):
    """Returns (before, after) zeros of one axis: none for VALID, TensorFlow's rule for SAME."""
    if padding == "VALID":
        return (0, 0)
    reach = (taps - 1) * dilation + 1
    total = max(0, (-(-size // stride) - 1) * stride + reach - size)
    return (total // 2, total - total // 2)


def channel_products(inputs, kernel, both_pads, strides=(1, 1), dilations=(1, 1)):
    """Returns I^[i] * K_[i] for every channel, [I, N, OH, OW, O]; they add up to I * K."""
    padded = np.pad(inputs, ((0, 0), *both_pads, (0, 0)))
    batch, height, width, channels = padded.shape
    taps_high, taps_wide, _, filters = kernel.shape
    rows = (height - (taps_high - 1) * dilations[0] - 1) // strides[0] + 1
    columns = (width - (taps_wide - 1) * dilations[1] - 1) // strides[1] + 1
    result = np.zeros((channels, batch, rows, columns, filters))
    for i in range(channels):
        for row in range(rows):
            for column in range(columns):
                for h in range(taps_high):
                    for w in range(taps_wide):
                        y = row * strides[0] + h * dilations[0]
                        x = column * strides[1] + w * dilations[1]
                        result[i, :, row, column] += np.outer(padded[:, y, x, i], kernel[h, w, i])
    return result
