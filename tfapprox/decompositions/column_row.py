"""Column-row sampling of a product as a stage: each call uses the heaviest pairs only."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfapprox.accounting.cost import StageShape
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.geometry import Pair
from tfapprox.accounting.site import Site
from tfapprox.decompositions.table import checked_settings
from tfapprox.selection.problem import Configuration

NAME = "crs"


@dataclasses.dataclass(frozen=True, eq=False)
class SampledStage(Stage):
    """The dense kernel, of which each call uses some input channels only.

    Attributes:
      pairs: how many of the input channels are kept, at least 1.
      drawn: by their weight at random; otherwise the heaviest.
      seed: of the draw.
    """

    pairs: int = 1
    drawn: bool = False
    seed: int = 0

    @property
    def multiplied(self) -> StageShape:
        """See the base class."""
        return dataclasses.replace(self.shape, in_channels=self.pairs)

    def input_macs(self, size: Pair) -> int:
        """Returns one a channel and position, for the norms of the columns."""
        return self.shape.in_channels * size[0] * size[1]

    def kept(self, channels: int) -> int:
        """Returns how many of so many channels are kept; a transposed use has others."""
        return max(1, channels * self.pairs // self.shape.in_channels)


def configuration(site: Site, ratio: float, drawn: bool, seed: int) -> Configuration:
    """Returns the settings that keep a share of the site's pairs."""
    pairs = max(1, int(site.in_channels * ratio))
    return Configuration(NAME, {"pairs": pairs, "drawn": int(drawn), "seed": seed})


def sample(site: Site, choice: Configuration) -> Factorization:
    """Returns the one sampled stage.

    Raises:
      UserError: other settings, or more pairs than there are.
    """
    accepted: dict[str, Sequence[int]] = {
        "pairs": range(1, site.in_channels + 1),
        "drawn": (0, 1),
        "seed": range(1 << 31),
    }
    pairs, drawn, seed = checked_settings(site, choice, accepted)
    dense = np.ascontiguousarray(site.kernel)
    return Factorization((SampledStage(dense, pairs=pairs, drawn=bool(drawn), seed=seed),))


def expected_error(site: Site, choice: Configuration) -> float:
    """Returns the relative error if all columns of the activations have one size, on average.

    Then a product misses what the kernel's lightest rows hold; a random draw is taken for
    the heaviest pairs. Real activations differ: only a run tells the error.
    """
    energy = np.sort(np.square(site.kernel.astype(np.float64)).sum((0, 1, 3)))
    lost = energy[: len(energy) - choice.settings["pairs"]].sum()
    return float(np.sqrt(lost / max(energy.sum(), 1e-300)))
