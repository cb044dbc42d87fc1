"""A site: a place in a model where a static kernel multiplies activations."""

import dataclasses
from typing import Literal

import numpy as np

from tfapprox.accounting.cost import Cost, StageShape, chain_cost
from tfapprox.accounting.geometry import Geometry, Pair
from tfapprox.calibration.weights import Weight

Kind = Literal["dense", "conv1d", "conv2d", "einsum"]


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One static kernel and the places that use it.

    Attributes:
      name: unique in the model and stable between runs.
      kind: the operation in the model's own terms.
      kernel: [height, width, in_channels, out_channels] (HWIO) whatever the model's
        layout; dense kernels are [1, 1, in, out], Conv1D [1, width, in, out].
      geometries: one for each use of the kernel in the model. All uses share the
        factors; each places them by its own strides and padding.
      assumed_size: what was assumed of an unknown spatial size, "" when all are known.
      weight: how much changes of the kernel matter on calibration data, for fits and
        metrics that ask for it; None without data.
    """

    name: str
    kind: Kind
    kernel: np.ndarray
    geometries: tuple[Geometry, ...] = (Geometry(),)
    assumed_size: str = ""
    weight: Weight | None = None

    def __post_init__(self):
        if self.kernel.ndim != 4:
            raise ValueError(f"site {self.name}: kernel must be HWIO, got {self.kernel.shape}")
        if not self.geometries:
            raise ValueError(f"site {self.name}: a site needs at least one use")

    @property
    def kernel_size(self) -> Pair:
        return self.kernel.shape[0], self.kernel.shape[1]

    @property
    def in_channels(self) -> int:
        return self.kernel.shape[2]

    @property
    def out_channels(self) -> int:
        return self.kernel.shape[3]

    @property
    def cost(self) -> Cost:
        """Cost of the dense kernel over all uses."""
        shape = StageShape(self.kernel_size, self.in_channels, self.out_channels)
        return chain_cost([shape], self.geometries, self.kernel.dtype.itemsize)
