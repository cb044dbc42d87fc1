"""The estimators of column-row sampling: one table, read by numpy, TensorFlow and flags alike."""

import dataclasses
from typing import Literal

from tfapprox.errors import UserError


@dataclasses.dataclass(frozen=True)
class Variant:
    """How pairs are weighted and how k of them are picked.

    Attributes:
      weighting: "norm" for probabilities proportional to the pair weights (Eq. 3
        or Eq. 8), "uniform" for 1/n.
      selection: "independent" (with replacement), "successive" (without: the k
        largest of log p + Gumbel noise), "largest" (deterministic), "bernoulli"
        (each on its own, k of them on average), "winners" (the heaviest kept, the
        rest drawn with replacement).
      scales: accepted values of `scale`; True makes the estimate unbiased.
    """

    weighting: Literal["norm", "uniform"]
    selection: Literal["independent", "successive", "largest", "bernoulli", "winners"]
    scales: tuple[bool | str, ...] = (False, True, "auto")

    @property
    def random(self) -> bool:
        return self.selection != "largest"


VARIANTS = {
    "uniform_replacement": Variant("uniform", "independent"),
    "uniform": Variant("uniform", "successive"),
    "nps_replacement": Variant("norm", "independent"),
    "nps": Variant("norm", "successive"),
    "topk": Variant("norm", "largest", scales=(False,)),
    "bernoulli": Variant("norm", "bernoulli"),
    "winner_take_all": Variant("norm", "winners", scales=(True,)),
}


def look_up_variant(name: str) -> Variant:
    """Returns the variant called `name`.

    Raises:
      UserError: there is none; the message lists the names that exist.
    """
    if name not in VARIANTS:
        raise UserError(f"unknown sampling {name!r}; choose among {', '.join(VARIANTS)}")
    return VARIANTS[name]


def sample_size(pairs: int, ratio: float, minimum: int = 1) -> int:
    """Returns k = min(n, max(int(n * ratio), minimum)); k = n means exact."""
    # The guard keeps int(100 * 0.29) at 29: 0.29 has no exact binary form.
    return min(pairs, max(int(pairs * ratio + 1e-9), minimum))
