"""The inputs of a kernel as rows: what one output position sees, laid out like the kernel."""

import numpy as np

from tfapprox.accounting.geometry import Geometry, Pair


def patch_rows(
    x: np.ndarray, kernel_size: Pair, geometry: Geometry, chosen: np.ndarray | None = None
) -> np.ndarray:
    """Returns the patches that a convolution multiplies, one a row.

    Row times kernel, `rows @ kernel.reshape(-1, O)`, is the convolution's output at that
    position. Entries run over height, width and channels, as in the kernel [H, W, I, O].

    Args:
      x: activations [N, height, width, I].
      kernel_size: taps (height, width).
      geometry: strides, dilations and padding; its input size does not count.
      chosen: int [n], output positions counted over (example, height, width); all when
        None.

    Returns:
      [n, H * W * I], in the dtype of `x`.
    """
    (height, start_y), (width, start_x) = (
        _axis(x.shape[1 + axis], kernel_size, geometry, axis) for axis in (0, 1)
    )
    if chosen is None:
        chosen = np.arange(x.shape[0] * height * width)
    example, place = np.divmod(chosen, height * width)
    top = (place // width) * geometry.strides[0] + start_y
    left = (place % width) * geometry.strides[1] + start_x
    rows = np.zeros((len(chosen), *kernel_size, x.shape[3]), x.dtype)
    for tap_y in range(kernel_size[0]):
        for tap_x in range(kernel_size[1]):
            y, z = top + tap_y * geometry.dilations[0], left + tap_x * geometry.dilations[1]
            inside = (y >= 0) & (y < x.shape[1]) & (z >= 0) & (z < x.shape[2])
            rows[inside, tap_y, tap_x] = x[example[inside], y[inside], z[inside]]
    return rows.reshape(len(chosen), -1)


def position_count(x_shape: tuple[int, ...], kernel_size: Pair, geometry: Geometry) -> int:
    """Returns the number of rows that `patch_rows` has for activations of this shape."""
    counts = [_axis(x_shape[1 + a], kernel_size, geometry, a)[0] for a in (0, 1)]
    return x_shape[0] * counts[0] * counts[1]


def _axis(length: int, kernel_size: Pair, geometry: Geometry, axis: int) -> tuple[int, int]:
    """Returns the output positions of an axis and where the first patch starts."""
    size = (length, 1) if axis == 0 else (1, length)
    placed = Geometry(geometry.strides, geometry.dilations, geometry.padding, size)
    taps = kernel_size[axis]
    count = placed.output_size((taps, 1) if axis == 0 else (1, taps))[axis]
    if geometry.padding == "VALID":
        return count, 0
    if geometry.padding != "SAME":
        return count, -geometry.padding[axis][0]
    reach = (taps - 1) * geometry.dilations[axis] + 1
    return count, -(max((count - 1) * geometry.strides[axis] + reach - length, 0) // 2)
