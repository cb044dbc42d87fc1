"""Stages and factorizations: what stands in for a site, and its dense equivalent."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfapprox.accounting.cost import Cost, StageShape, chain_cost
from tfapprox.accounting.geometry import Geometry


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One small linear operation of a replacement.

    Attributes:
      kernel: [height, width, in_channels / groups, out_channels].
      groups: blocks of consecutive input channels that feed blocks of consecutive
        output channels; `groups == in_channels` is depthwise.
      axes: which spatial axes (height, width) this stage holds; see
        `Geometry.restrict`.
    """

    kernel: np.ndarray
    groups: int = 1
    axes: tuple[bool, bool] = (True, True)

    @property
    def shape(self) -> StageShape:
        height, width, fan_in, out_channels = self.kernel.shape
        return StageShape(
            (height, width), fan_in * self.groups, out_channels, self.groups, self.axes
        )

    def ungrouped(self) -> np.ndarray:
        """Returns the kernel with groups spelled out as zeros, [H, W, I, O]."""
        if self.groups == 1:
            return self.kernel
        height, width, fan_in, out_channels = self.kernel.shape
        fan_out = out_channels // self.groups
        full = np.zeros((height, width, fan_in * self.groups, out_channels), self.kernel.dtype)
        for group in range(self.groups):
            rows = slice(group * fan_in, (group + 1) * fan_in)
            columns = slice(group * fan_out, (group + 1) * fan_out)
            full[:, :, rows, columns] = self.kernel[:, :, :, columns]
        return full


@dataclasses.dataclass(frozen=True, eq=False)
class Factorization:
    """A chain of stages in the order of execution; the last one carries bias and activation."""

    stages: tuple[Stage, ...]

    def __post_init__(self):
        for axis in (0, 1):
            holders = sum(stage.axes[axis] for stage in self.stages)
            wide = [s for s in self.stages if s.kernel.shape[axis] > 1 and not s.axes[axis]]
            if holders != 1 or wide:
                raise ValueError(
                    f"exactly one stage must hold spatial axis {axis} and its taps, "
                    f"got axes {[s.axes for s in self.stages]} "
                    f"and kernels {[s.kernel.shape for s in self.stages]}"
                )

    def cost(self, geometries: Sequence[Geometry]) -> Cost:
        """Returns the cost of all stages over all uses."""
        shapes = [stage.shape for stage in self.stages]
        return chain_cost(shapes, geometries, self.stages[0].kernel.dtype.itemsize)

    def reconstruct(self) -> np.ndarray:
        """Returns the one dense kernel [H, W, I, O] that the chain of stages equals.

        Each spatial axis has taps in one stage only, so composing kernels is a
        matrix product over the channels between them.
        """
        composed = self.stages[0].ungrouped()
        for stage in self.stages[1:]:
            kernel = stage.ungrouped()
            product = np.einsum("hwir,xyro->hxwyio", composed, kernel, optimize=True)
            height, more_height, width, more_width, in_channels, out_channels = product.shape
            composed = product.reshape(
                height * more_height, width * more_width, in_channels, out_channels
            )
        return composed
