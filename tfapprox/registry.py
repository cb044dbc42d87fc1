"""Every method by its name: the one table that flags, reports and contract tests read."""

from typing import Any

from tfapprox.decompositions.base import Decomposition
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.errors import UserError
from tfapprox.metrics import METRICS
from tfapprox.selection.alds import select_alds
from tfapprox.selection.energy import select_energy
from tfapprox.selection.problem import Selector
from tfapprox.selection.uniform import select_uniform

DECOMPOSITIONS: dict[str, Decomposition] = {"svd": SvdDecomposition()}

SELECTORS: dict[str, Selector] = {
    "alds": select_alds,
    "energy": select_energy,
    "uniform": select_uniform,
}

# The metric each selector is defined with.
SELECTOR_METRIC = {"alds": "operator", "energy": "frobenius", "uniform": "operator"}

_TABLES: dict[str, Any] = {
    "decomposition": DECOMPOSITIONS,
    "selector": SELECTORS,
    "metric": METRICS,
}


def look_up(table: str, name: str) -> Any:
    """Returns the entry called `name` of the table decomposition, selector or metric.

    Raises:
      UserError: there is none; the message lists the names that exist.
    """
    if name not in _TABLES[table]:
        raise UserError(f"unknown {table} {name!r}; choose among {', '.join(_TABLES[table])}")
    return _TABLES[table][name]
