"""What a rewriter finds in a model: sites, linear operations it keeps, totals."""

import dataclasses

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.site import Site


@dataclasses.dataclass(frozen=True)
class KeptOperation:
    """A linear operation that is no site.

    Attributes:
      name: as it is called in the model.
      kind: operation or layer type.
      reason: why it can't be replaced, in words for the user.
      cost: what it costs as it is.
    """

    name: str
    kind: str
    reason: str
    cost: Cost = Cost()


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """A model as the planner sees it.

    Attributes:
      sites: places whose kernels may be factorized, in order of execution.
      kept: linear operations that stay, each with a reason.
      params: all parameters of the model (entries of every variable and of
        constants used as kernels), sites included.
      param_bytes: their bytes.
      notes: remarks on the whole model for the user, e.g. an input that TF
        Serving can't load.
    """

    sites: tuple[Site, ...]
    kept: tuple[KeptOperation, ...]
    params: int
    param_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """MACs of all linear operations for one example."""
        return sum(site.cost.macs for site in self.sites) + sum(x.cost.macs for x in self.kept)

    @property
    def cost(self) -> Cost:
        return Cost(self.params, self.macs, self.param_bytes)
