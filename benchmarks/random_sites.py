"""The linear layers of well-known networks, as sites with random kernels.

No time that depends on shapes alone needs more of a network.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site

Layer = tuple[tuple[int, int, int, int], int, int]
"""Kernel shape [H, W, I, O], input size and stride."""


def vgg16_layers() -> Iterator[Layer]:
    """Yields the linear layers of VGG16."""
    channels, size = 3, 224
    for count, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(count):
            yield (3, 3, channels, width), size, 1
            channels = width
        size //= 2
    yield (1, 1, 25088, 4096), 1, 1
    yield (1, 1, 4096, 4096), 1, 1
    yield (1, 1, 4096, 1000), 1, 1


def resnet50_layers() -> Iterator[Layer]:
    """Yields the linear layers of ResNet50."""
    yield (7, 7, 3, 64), 230, 2
    channels, size = 64, 56
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            yield (1, 1, channels, width), size, stride
            if block == 0:
                yield (1, 1, channels, 4 * width), size, stride
            size //= stride
            yield (3, 3, width, width), size, 1
            yield (1, 1, width, 4 * width), size, 1
            channels = 4 * width
    yield (1, 1, channels, 1000), 1, 1


def make_sites(layers: Iterable[Layer]) -> list[Site]:
    """Returns sites with random float32 kernels."""
    rng = np.random.default_rng(0)
    sites = []
    for number, (shape, size, stride) in enumerate(layers):
        kernel = rng.standard_normal(shape, np.float32)
        geometry = Geometry((stride, stride), (1, 1), "SAME", (size, size))
        sites.append(Site(f"layer{number}", "conv2d", kernel, (geometry,)))
    return sites
