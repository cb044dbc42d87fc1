"""Ablations of ALDS: the number of channel slices is the same everywhere."""

import dataclasses

from tfapprox.errors import UserError
from tfapprox.selection.problem import CandidateTable, Problem, Selection, Selector


@dataclasses.dataclass(frozen=True)
class FixedSlicesSelector:
    """Lets another selector choose among the candidates with k channel slices.

    ALDS-Error is `select_alds` with k = 3, SVD-Error the same with k = 1, ALDS-Simple
    `select_uniform` with k = 3 or 5. Where a site's candidates do not offer k slices
    (k must divide the input channels, and 3 rarely does), the nearest number that they
    offer is taken, the smaller of two.

    Attributes:
      name: in the registry, for messages.
      slices: the number k.
      selector: chooses ranks (and schemes, if there are several).

    References:
      Liebenwein et al. 2021, supplement, Section C (ablation study).
    """

    name: str
    slices: int
    selector: Selector

    def __call__(self, problem: Problem) -> Selection:
        """Returns the other selector's answer, in rows of the whole tables.

        Raises:
          UserError: no site's candidates have slices, or all have 1 while k is more.
          InfeasibleBudgetError: the budget can't be met with these candidates.
        """
        offered = {k for table in problem.tables for k in _slices(table)}
        if not offered or (self.slices > 1 and offered == {1}):
            way_out = "offer more with --slices" if offered else "add svd to --decompositions"
            raise UserError(
                f"selector {self.name} needs svd candidates with {self.slices} channel slices, "
                f"the tables have {', '.join(map(str, sorted(offered))) or 'none'}; "
                f"{way_out}, or use --selector=alds"
            )
        kept = {table.site: self._rows(table) for table in problem.tables}
        tables = tuple(table.take(kept[table.site]) for table in problem.tables)
        selection = self.selector(dataclasses.replace(problem, tables=tables))
        rows = {
            site: None if row is None else kept[site][row] for site, row in selection.rows.items()
        }
        return dataclasses.replace(selection, rows=rows)

    def _rows(self, table: CandidateTable) -> list[int]:
        offered = sorted(_slices(table))
        nearest = min(offered, key=lambda k: abs(k - self.slices), default=0)
        rows = enumerate(table.configurations)
        return [index for index, row in rows if row.settings.get("slices") == nearest]


def _slices(table: CandidateTable) -> set[int]:
    return {row.settings["slices"] for row in table.configurations if "slices" in row.settings}
