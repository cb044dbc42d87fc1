"""Stages and factorizations: what stands in for a site, and its dense equivalent."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfapprox.accounting.cost import Cost, StageShape, chain_cost
from tfapprox.accounting.geometry import Geometry, Pair


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One small linear operation of a replacement.

    Attributes:
      kernel: [height, width, in_channels / groups, out_channels].
      groups: blocks of consecutive input channels that feed blocks of consecutive
        output channels; `groups == in_channels` is depthwise.
      axes: which spatial axes (height, width) this stage holds; see
        `Geometry.restrict`.
      input_order: int [in_channels] or None: the stage's input channel i is channel
        `input_order[i]` of what comes in, as in `take(x, input_order, axis=-1)`.
        Clustered channels become blocks for `groups` this way.
    """

    kernel: np.ndarray
    groups: int = 1
    axes: tuple[bool, bool] = (True, True)
    input_order: np.ndarray | None = None

    def __post_init__(self):
        _check_order("input_order", self.input_order, self.kernel.shape[2] * self.groups)

    @property
    def shape(self) -> StageShape:
        height, width, fan_in, out_channels = self.kernel.shape
        return StageShape(
            (height, width), fan_in * self.groups, out_channels, self.groups, self.axes
        )

    @property
    def params(self) -> int:
        """Entries that are stored for this stage."""
        return self.kernel.size

    @property
    def multiplied(self) -> StageShape:
        """The part of the kernel that one call multiplies: all of it, if nothing is sampled."""
        return self.shape

    def input_macs(self, size: Pair) -> int:
        """Returns multiply-adds on an input of this size before the product."""
        return 0

    def ungrouped(self) -> np.ndarray:
        """Returns the kernel with groups spelled out as zeros and no input order, [H, W, I, O]."""
        height, width, fan_in, out_channels = self.kernel.shape
        fan_out = out_channels // self.groups
        full = np.zeros((height, width, fan_in * self.groups, out_channels), self.kernel.dtype)
        for group in range(self.groups):
            rows = slice(group * fan_in, (group + 1) * fan_in)
            columns = slice(group * fan_out, (group + 1) * fan_out)
            full[:, :, rows, columns] = self.kernel[:, :, :, columns]
        if self.input_order is not None:
            full[:, :, self.input_order] = full.copy()
        return full

    def after(self, composed: np.ndarray) -> np.ndarray:
        """Returns the kernel of this stage applied to the output of one of kernel `composed`.

        A matrix product over the channels between them, group by group.

        Args:
          composed: [height, width, in, out]; `out` is this stage's in_channels. On each
            axis one of the two kernels has one tap.
        """
        height, width, in_channels, _ = composed.shape
        taps_y, taps_x, fan_in, out_channels = self.kernel.shape
        if self.input_order is not None:
            composed = composed[..., self.input_order]
        left = composed.reshape(-1, self.groups, fan_in).swapaxes(0, 1)
        blocks = self.kernel.reshape(taps_y * taps_x, fan_in, self.groups, -1)
        right = blocks.transpose(2, 1, 0, 3).reshape(self.groups, fan_in, -1)
        product = (left @ right).reshape(
            self.groups, height, width, in_channels, taps_y, taps_x, out_channels // self.groups
        )
        return product.transpose(1, 4, 2, 5, 3, 0, 6).reshape(
            height * taps_y, width * taps_x, in_channels, out_channels
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Factorization:
    """A chain of stages in the order of execution; the last one carries bias and activation.

    Attributes:
      stages: at least one; each spatial axis is held by exactly one.
      output_order: int [out_channels] or None: the site's output channel o is channel
        `output_order[o]` of the last stage's output, before bias and activation.
      offset: [out_channels] or None: added to the output after `output_order`, before
        bias and activation. It makes up for what the kernel loses on average.
    """

    stages: tuple[Stage, ...]
    output_order: np.ndarray | None = None
    offset: np.ndarray | None = None

    def __post_init__(self):
        _check_order("output_order", self.output_order, self.stages[-1].kernel.shape[3])
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
        itemsize = self.stages[0].kernel.dtype.itemsize
        product = chain_cost([stage.multiplied for stage in self.stages], geometries, itemsize)
        params = sum(stage.params for stage in self.stages)
        before = sum(self.stages[0].input_macs(g.input_size) for g in geometries)
        return Cost(params, product.macs + before, params * itemsize)

    def with_scaled_outputs(self, scale: np.ndarray) -> "Factorization":
        """Returns the chain whose outputs, offset included, are `scale` [out_channels] times these.

        The last stage takes it on, so nothing is added.
        """
        last, by_stage = self.stages[-1], scale
        if self.output_order is not None:
            by_stage = np.empty_like(scale)
            by_stage[self.output_order] = scale
        kernel = (last.kernel * by_stage).astype(last.kernel.dtype)
        offset = self.offset
        return dataclasses.replace(
            self,
            stages=(*self.stages[:-1], dataclasses.replace(last, kernel=kernel)),
            offset=None if offset is None else (offset * scale).astype(offset.dtype),
        )

    def reconstruct(self) -> np.ndarray:
        """Returns the one dense kernel [H, W, I, O] that the chain of stages equals.

        The offset, which is no part of a kernel, is left out.

        Each spatial axis has taps in one stage only, so composing kernels takes
        products over channels and no convolution.
        """
        composed = self.stages[0].ungrouped()
        for stage in self.stages[1:]:
            composed = stage.after(composed)
        return composed if self.output_order is None else composed[..., self.output_order]


def _check_order(name: str, order: np.ndarray | None, channels: int) -> None:
    if order is not None and not np.array_equal(np.sort(order), np.arange(channels)):
        raise ValueError(f"{name} must be a permutation of {channels} channels, got {order}")
