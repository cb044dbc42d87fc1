"""Central differences in float64."""

import numpy as np


def gradient(function, point, step=1e-6):
    """Returns d function / d point for a scalar function of an array."""
    result = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        ahead, behind = point.copy(), point.copy()
        ahead[index] += step
        behind[index] -= step
        result[index] = (function(ahead) - function(behind)) / (2 * step)
    return result
