"""Methods that a plan can name beside the registered decompositions.

A slice generator is fitted to many sites at once, and what sampling loses depends on the
activations: no table of one site's candidates describes either. A plan names them like others.
"""

from collections.abc import Callable, Mapping, Sequence

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.decompositions import column_row, generated
from tfapprox.selection.problem import Configuration

Choices = Sequence[tuple[Site, Configuration]]


def _sample(choices: Choices) -> dict[str, Factorization]:
    return {site.name: column_row.sample(site, choice) for site, choice in choices}


JOINT: Mapping[str, Callable[[Choices], dict[str, Factorization]]] = {
    column_row.NAME: _sample,
    generated.NAME: generated.generate_choices,
}


def build_joint(choices: Choices) -> dict[str, Factorization]:
    """Returns site name -> what stands in for it, for all choices of these methods.

    Raises:
      UserError: settings that do not fit a site.
    """
    built: dict[str, Factorization] = {}
    for name, build in JOINT.items():
        built |= build([pair for pair in choices if pair[1].decomposition == name])
    return built
