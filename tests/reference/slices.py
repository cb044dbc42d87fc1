"""A kernel made of slices, entry by entry, as the paper's figure 1 says it."""

import numpy as np


def generated_kernel(codes, generator, kernel_shape):
    """Returns the kernel [H, W, I, O].

    Args:
      codes: [slices, code size], the slices ordered by block row, block column, block
        of input channels, block of output channels.
      generator: [code size, height, width, in, out].
    """
    steps = generator.shape[1:]
    grid = [-(-size // step) for size, step in zip(kernel_shape, steps, strict=True)]
    kernel = np.zeros(kernel_shape)
    for entry in np.ndindex(*kernel_shape):
        number = 0
        for axis in range(4):
            number = number * grid[axis] + entry[axis] // steps[axis]
        inside = tuple(entry[axis] % steps[axis] for axis in range(4))
        for j in range(codes.shape[1]):
            kernel[entry] += codes[number, j] * generator[(j, *inside)]
    return kernel
