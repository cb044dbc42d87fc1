"""What a linear operation costs: parameters, multiply-adds, bytes."""

import dataclasses
from collections.abc import Sequence

from tfapprox.accounting.geometry import Geometry


@dataclasses.dataclass(frozen=True)
class Cost:
    """Kernel parameters (entries), MACs for one example, bytes of the kernels, and time.

    A MAC is one multiply-add, as counted by the papers; biases are left out of
    both, because a rewrite never changes them. Latency is in nanoseconds of one call
    at the batch size it was measured at; 0 where it was not measured.
    """

    params: int = 0
    macs: int = 0
    bytes: int = 0
    latency: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.bytes + other.bytes,
            self.latency + other.latency,
        )

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(
            self.params - other.params,
            self.macs - other.macs,
            self.bytes - other.bytes,
            self.latency - other.latency,
        )


@dataclasses.dataclass(frozen=True)
class StageShape:
    """Shape of one stage's kernel, [height, width, in_channels / groups, out_channels].

    `axes` says which spatial axes the stage holds, that is, where it takes over
    the strides, padding and dilations of the site's geometry. Channel numbers may
    be integer arrays: costs then come out as arrays, one entry a candidate.
    """

    kernel_size: tuple[int, int]
    in_channels: int
    out_channels: int
    groups: int = 1
    axes: tuple[bool, bool] = (True, True)

    @property
    def params(self) -> int:
        """Entries of the kernel; grouped stages hold 1/groups of the full product."""
        height, width = self.kernel_size
        return height * width * self.in_channels * self.out_channels // self.groups


def chain_cost(shapes: Sequence[StageShape], geometries: Sequence[Geometry], itemsize: int) -> Cost:
    """Returns the cost of a chain of stages that stands in for one site.

    Every stage is counted, grouped ones too, each at its own output size: a first
    stage that does not hold a strided axis runs at the larger input size.

    Args:
      shapes: the stages in the order of execution.
      geometries: one for each use of the site's kernel; MACs add up over uses.
      itemsize: bytes of one kernel entry.
    """
    params = sum(shape.params for shape in shapes)
    macs = 0
    for geometry in geometries:
        size = geometry.input_size
        for shape in shapes:
            size = geometry.restrict(shape.axes, size).output_size(shape.kernel_size)
            macs = macs + shape.params * size[0] * size[1]
    return Cost(params, macs, params * itemsize)
