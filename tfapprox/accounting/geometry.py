"""Where the taps of a kernel fall: strides, dilations, padding, spatial sizes."""

import dataclasses
from typing import Literal

Pair = tuple[int, int]
Padding = Literal["SAME", "VALID"] | tuple[Pair, Pair]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Placement of one kernel over the two spatial axes, in (height, width) order.

    A dense product is a 1x1 kernel; `input_size` then counts the positions it is
    applied to for one example, e.g. (1, tokens). Conv1D runs along the width.

    Attributes:
      strides, dilations: per axis, at least 1.
      padding: "SAME" (TensorFlow's: the odd pixel goes to the end), "VALID", or
        explicit ((top, bottom), (left, right)) counts of zeros.
      input_size: spatial size of the input of one example, in positions; 0 is what
        a stage sees whose predecessor does not fit its own input.
    """

    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    padding: Padding = "VALID"
    input_size: Pair = (1, 1)

    def __post_init__(self):
        if min(*self.strides, *self.dilations) < 1:
            raise ValueError(f"strides and dilations must be at least 1, got {self}")
        if min(self.input_size) < 0:
            raise ValueError(f"input_size must not be negative, got {self.input_size}")
        if isinstance(self.padding, str) and self.padding not in ("SAME", "VALID"):
            raise ValueError(f"padding must be SAME, VALID or explicit pairs, got {self.padding!r}")

    def output_size(self, kernel_size: Pair) -> Pair:
        """Returns the spatial output size for a kernel of `kernel_size` (height, width)."""
        return (self._output_length(0, kernel_size[0]), self._output_length(1, kernel_size[1]))

    def _output_length(self, axis: int, taps: int) -> int:
        length, stride = self.input_size[axis], self.strides[axis]
        if self.padding == "SAME":
            return -(-length // stride)
        if self.padding != "VALID":
            length += sum(self.padding[axis])
        reach = (taps - 1) * self.dilations[axis] + 1
        return max(0, -(-(length - reach + 1) // stride))

    def restrict(self, axes: tuple[bool, bool], input_size: Pair) -> "Geometry":
        """Returns the part of this geometry that a stage holding `axes` takes over.

        On an axis it does not hold, a stage has one tap, stride and dilation 1 and
        no padding. "SAME" may stay: with one tap and stride 1 it pads nothing.

        Args:
          axes: whether the stage holds the height and the width axis.
          input_size: spatial size of that stage's input.
        """
        padding = self.padding
        if not isinstance(padding, str):
            padding = (padding[0] if axes[0] else (0, 0), padding[1] if axes[1] else (0, 0))
        return Geometry(
            strides=(self.strides[0] if axes[0] else 1, self.strides[1] if axes[1] else 1),
            dilations=(self.dilations[0] if axes[0] else 1, self.dilations[1] if axes[1] else 1),
            padding=padding,
            input_size=input_size,
        )
