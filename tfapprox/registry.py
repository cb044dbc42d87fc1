"""Every method by its name: the one table that flags, reports and contract tests read."""

from typing import Any

from tfapprox.decompositions.base import Decomposition
from tfapprox.decompositions.biclustering import BiclusterCp, BiclusterSvd
from tfapprox.decompositions.cp import CpDecomposition
from tfapprox.decompositions.depthwise import DepthwiseDecomposition
from tfapprox.decompositions.messi import MessiDecomposition
from tfapprox.decompositions.monochromatic import MonochromaticDecomposition
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.decompositions.tucker import TuckerDecomposition
from tfapprox.errors import UserError
from tfapprox.metrics import METRICS
from tfapprox.pruning.methods import PRUNINGS as PRUNINGS
from tfapprox.selection.alds import select_alds
from tfapprox.selection.alds_alternating import AlternatingAldsSelector
from tfapprox.selection.energy import select_energy
from tfapprox.selection.evbmf import EvbmfSelector
from tfapprox.selection.fixed_slices import FixedSlicesSelector
from tfapprox.selection.greedy import select_greedy
from tfapprox.selection.latency import select_latency
from tfapprox.selection.lrank import select_lrank
from tfapprox.selection.pca import select_pca
from tfapprox.selection.problem import Selector
from tfapprox.selection.uniform import select_uniform

DECOMPOSITIONS: dict[str, Decomposition] = {
    "bicluster_cp": BiclusterCp(),
    "bicluster_svd": BiclusterSvd(),
    "cp": CpDecomposition(),
    "depthwise": DepthwiseDecomposition(),
    "messi": MessiDecomposition(),
    "monochromatic": MonochromaticDecomposition(),
    "svd": SvdDecomposition(),
    "tucker2": TuckerDecomposition(),
}

SELECTORS: dict[str, Selector] = {
    "alds": select_alds,
    "alds_alternating": AlternatingAldsSelector(),
    "alds_error": FixedSlicesSelector("alds_error", 3, select_alds),
    "alds_simple": FixedSlicesSelector("alds_simple", 3, select_uniform),
    "energy": select_energy,
    "evbmf": EvbmfSelector(),
    "greedy": select_greedy,
    "latency": select_latency,
    "lrank": select_lrank,
    "pca": select_pca,
    "svd_error": FixedSlicesSelector("svd_error", 1, select_alds),
    "uniform": select_uniform,
}

# The metric each selector is defined with.
SELECTOR_METRIC = {
    "alds": "operator",
    "alds_alternating": "operator",
    "alds_error": "operator",
    "alds_simple": "operator",
    "energy": "frobenius",
    "evbmf": "frobenius",
    "greedy": "frobenius",
    "latency": "frobenius",
    "lrank": "frobenius",
    "pca": "frobenius",
    "svd_error": "operator",
    "uniform": "operator",
}

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
