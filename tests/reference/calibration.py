"""Calibrated fits as their definitions say it: samples, loops, dense linear algebra."""

import numpy as np

from tests.reference.convolution import pads_of


def patches(images, kernel_size, strides=(1, 1), dilations=(1, 1), padding="VALID"):
    """Returns every patch [n, H W I] that a convolution multiplies, in the order of its outputs."""
    pads = [
        pads_of(
            padding, axis, images.shape[1 + axis], kernel_size[axis], strides[axis], dilations[axis]
        )
        for axis in (0, 1)
    ]
    padded = np.pad(images, ((0, 0), *pads, (0, 0)))
    reach = [(kernel_size[axis] - 1) * dilations[axis] for axis in (0, 1)]
    rows = []
    for image in padded:
        for y in range(0, image.shape[0] - reach[0], strides[0]):
            for x in range(0, image.shape[1] - reach[1], strides[1]):
                cut = image[
                    y : y + reach[0] + 1 : dilations[0], x : x + reach[1] + 1 : dilations[1]
                ]
                rows.append(cut.reshape(-1))
    return np.array(rows)


def reduced_rank_regression(x, y, rank):
    """Returns the B of that rank with the least ||y - x B||_F: project the fitted outputs.

    The fit of full rank is the projection of y on the span of x; of those fitted values
    the best approximation of lower rank, by Eckart and Young, is also x B for some B.
    """
    full = np.linalg.lstsq(x, y, rcond=None)[0]
    _, _, right = np.linalg.svd(x @ full, full_matrices=False)
    return full @ right[:rank].T @ right[:rank]
