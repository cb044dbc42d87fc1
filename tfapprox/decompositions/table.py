"""Candidate tables of methods that have no closed form for the error: build and measure."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.decompositions.refitting import refit
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.metrics import METRICS
from tfapprox.selection.problem import CandidateTable, Configuration

Row = tuple[Configuration, Factorization]

_FITTED_ROWS = 10  # of a table that are fitted to calibration data, which takes long


def built_table(
    site: Site,
    metric: str,
    spectra: SpectrumCache,
    configurations: Sequence[Configuration],
    build: Callable[[Configuration], Factorization],
    noise_ranks: Sequence[Mapping[str, int]] = (),
) -> CandidateTable:
    """Returns the table of configurations, after building and measuring them.

    Where the site has calibration data, 10 of them at most, evenly spread, are fitted to
    those; none if the data know only outputs, which don't say what another structure
    would give.

    Args:
      site, metric, spectra: see `Decomposition.candidates`.
      configurations: worth a look.
      build: fits one to the kernel alone.
      noise_ranks: see `CandidateTable`.
    """
    weight = site.weight
    chosen: Sequence[int] = range(len(configurations))
    if weight is not None:
        blind = weight.inputs is None and weight.outputs is not None
        chosen = [] if blind else evenly(chosen, _FITTED_ROWS)
    rows = []
    for index in chosen:
        built = build(configurations[index])
        if weight is not None:
            built = refit(site.kernel, built, weight)
        rows.append((configurations[index], built))
    noise = [noise_ranks[index] for index in chosen] if noise_ranks else ()
    return _measured(site, metric, spectra, rows, noise)


def _measured(
    site: Site,
    metric: str,
    spectra: SpectrumCache,
    rows: Sequence[Row],
    noise_ranks: Sequence[Mapping[str, int]] = (),
) -> CandidateTable:
    """Returns the table of factorizations that were built, each error as it really is.

    The error is ||W - W_hat|| / ||W|| of the composed kernel, the cost that of the
    built stages: a row promises nothing that building it again would not keep.
    """
    measure = METRICS[metric]
    norm = measure.site_norm(site, spectra)
    lost = [measure.distance(site, built.reconstruct()) for _, built in rows]
    costs = [built.cost(site.geometries) for _, built in rows]
    columns: Mapping = {
        kind: np.array([getattr(cost, kind) for cost in costs], np.int64)
        for kind in ("params", "macs", "bytes")
    }
    return CandidateTable(
        site.name,
        [configuration for configuration, _ in rows],
        np.array(lost) / (norm or 1.0),  # a kernel of zeros is met exactly
        columns,
        site.cost,
        norm,
        noise_ranks,
    )


def saves(cost: Cost, dense: Cost) -> np.ndarray | bool:
    """Says which costs are below the dense kernel's, in parameters or in MACs."""
    return (np.asarray(cost.params) < dense.params) | (np.asarray(cost.macs) < dense.macs)


def ranks_below(limit: int, multiple: int) -> np.ndarray:
    """Returns the multiples of `multiple` below `limit`, or powers of two if there are none."""
    ranks = np.arange(multiple, limit, multiple)
    if len(ranks):
        return ranks
    return 2 ** np.arange(max(limit - 1, 0).bit_length())


def evenly(items: Sequence, count: int) -> list:
    """Returns at most `count` of the items, evenly spaced, the first and the last included."""
    if len(items) <= count:
        return list(items)
    places = np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))
    return [items[place] for place in places]


def checked_settings(
    site: Site, configuration: Configuration, accepted: Mapping[str, Sequence[int]]
) -> list[int]:
    """Returns the settings in the order of `accepted`, name -> the values that fit the site.

    Raises:
      UserError: other names, or a value that does not fit, naming what does.
    """
    method, settings = configuration.decomposition, configuration.settings
    if set(settings) != set(accepted):
        raise UserError(
            f"site {site.name}: {method} takes the settings {', '.join(accepted)}, "
            f"got {', '.join(map(str, settings)) or 'none'}"
        )
    for name, values in accepted.items():
        if settings[name] not in values:
            raise UserError(
                f"site {site.name}: {method} {name} must be {_in_words(values)}, "
                f"got {settings[name]}"
            )
    return [settings[name] for name in accepted]


def _in_words(values: Sequence[int]) -> str:
    if isinstance(values, range):
        return f"from {values[0]} to {values[-1]}"
    return f"among {', '.join(map(str, values))}"
