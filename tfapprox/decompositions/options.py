"""Which candidates the decompositions offer."""

import dataclasses

from tfapprox.errors import UserError


@dataclasses.dataclass(frozen=True)
class CandidateOptions:
    """Which candidates the decompositions offer.

    Attributes:
      schemes: SVD unfoldings to try (see `decompositions.unfolding`).
      slices: numbers k of channel slices to try; a k that does not divide a
        site's input channels is left out there. Grouped first stages (k > 1) cost
        fewer MACs and are rarely faster on a CPU, so only 1 is tried by default.
      rank_multiple: ranks are multiples of this where a site is large enough.
      slice_shape: out, in, height, width of the slices of slice_generator; 16 x 16
        channels and 3x3 taps (1x1 where no kernel has more) when None.
    """

    schemes: tuple[int, ...] = (0, 1, 2, 3)
    slices: tuple[int, ...] = (1,)
    rank_multiple: int = 8
    slice_shape: tuple[int, int, int, int] | None = None

    def __post_init__(self):
        if not self.schemes or not set(self.schemes) <= {0, 1, 2, 3}:
            raise UserError(f"schemes must be among 0, 1, 2, 3, got {self.schemes}")
        if not self.slices or min(self.slices) < 1:
            raise UserError(f"slices must be positive numbers, got {self.slices}")
        if self.slice_shape is not None and len(self.slice_shape) != 4:
            raise UserError(f"slice_shape must have four numbers, got {self.slice_shape}")
        if self.rank_multiple < 1:
            raise UserError(f"rank_multiple must be at least 1, got {self.rank_multiple}")
