"""What every decomposition offers."""

from typing import Protocol

from tfapprox.accounting.factorization import Factorization
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.selection.problem import CandidateTable, Configuration


class Decomposition(Protocol):
    """A method that offers candidates for a site and builds the one that is chosen."""

    def candidates(
        self, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
    ) -> CandidateTable:
        """Returns every configuration worth a look, with error and cost; may have no rows."""
        ...

    def full_rank(self, site: Site) -> Configuration:
        """Returns a configuration that reproduces the kernel exactly (and saves nothing)."""
        ...

    def factorize(
        self, site: Site, configuration: Configuration, spectra: SpectrumCache
    ) -> Factorization:
        """Returns the stages, in the kernel's dtype.

        Raises:
          UserError: the settings do not fit the site (a rank beyond the kernel's,
            slices that do not divide the channels), naming the accepted range.
        """
        ...
