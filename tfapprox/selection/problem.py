"""The selection problem: candidate tables and a budget in, one row per site out."""

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from tfapprox.accounting.cost import Cost
from tfapprox.errors import UserError

CostKind = Literal["params", "macs", "bytes", "latency"]


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One way to factorize a site: a decomposition and its integer settings.

    Example: `Configuration("svd", {"scheme": 0, "slices": 1, "rank": 32})`.
    """

    decomposition: str
    settings: Mapping[str, int]

    def to_json(self) -> dict:
        return {"decomposition": self.decomposition, **self.settings}

    def __str__(self) -> str:
        settings = " ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.decomposition} {settings}"


@dataclasses.dataclass(frozen=True, eq=False)
class CandidateTable:
    """All candidates of one site, one row each, in columns.

    Attributes:
      site: name of the site.
      configurations: one a row.
      error: float64 [rows], relative error of the composed kernel in the metric of
        the problem: ||W - W_hat|| / ||W||.
      cost: the columns params, macs, bytes, and latency where it was measured, each
        int64 [rows].
      dense: cost of the site as it is.
      norm: ||W|| in the metric, so that absolute errors can be had.
      noise_ranks: one mapping a row, or none at all: for each rank among the row's
        settings, the rank at which EVBMF draws the line between signal and noise.
        Empty for rows whose method has no such notion.
    """

    site: str
    configurations: Sequence[Configuration]
    error: np.ndarray
    cost: Mapping[CostKind, np.ndarray]
    dense: Cost
    norm: float
    noise_ranks: Sequence[Mapping[str, int]] = ()

    def __len__(self) -> int:
        return len(self.configurations)

    @classmethod
    def join(cls, tables: Sequence["CandidateTable"]) -> "CandidateTable":
        """Returns the rows of several decompositions' tables of one site as one table."""
        first = tables[0]
        if len(tables) == 1:
            return first
        return dataclasses.replace(
            first,
            configurations=[row for table in tables for row in table.configurations],
            error=np.concatenate([table.error for table in tables]),
            cost={
                kind: np.concatenate([table.cost[kind] for table in tables]) for kind in first.cost
            },
            noise_ranks=[row for table in tables for row in table.noise_ranks or [{}] * len(table)],
        )

    def take(self, rows: Sequence[int]) -> "CandidateTable":
        """Returns the table of these rows alone, in this order."""
        places = np.asarray(rows, np.int64)
        return dataclasses.replace(
            self,
            configurations=[self.configurations[row] for row in rows],
            error=self.error[places],
            cost={kind: column[places] for kind, column in self.cost.items()},
            noise_ranks=[self.noise_ranks[row] for row in rows] if self.noise_ranks else (),
        )

    def dense_cost(self, kind: CostKind) -> int:
        return getattr(self.dense, kind)


@dataclasses.dataclass(frozen=True)
class Budget:
    """A keep ratio of a cost, an absolute limit, or a bound on the error of every site.

    Attributes:
      kind: the cost that is limited; with `max_error`, the cost that is minimised.
      keep: share of the original model's cost that may remain, in (0, 1].
      max_error: relative error that no site may exceed, instead of `keep`.
      limit: the model's cost that may remain, instead of `keep`: parameters, MACs of
        one example, bytes, or nanoseconds of one call.
    """

    kind: CostKind = "macs"
    keep: float | None = None
    max_error: float | None = None
    limit: float | None = None

    def __post_init__(self):
        if sum(x is not None for x in (self.keep, self.max_error, self.limit)) != 1:
            raise UserError(
                "a budget needs exactly one of keep, max_error and limit, e.g. "
                'Budget("macs", keep=0.5)'
            )
        for name in ("keep", "max_error", "limit"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real | None):
                raise UserError(f"a budget's {name} must be a number, got {value!r}")
        if self.kind not in ("params", "macs", "bytes", "latency"):
            raise UserError(
                f"budget kind must be params, macs, bytes or latency, got {self.kind!r}"
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise UserError(f"keep ratio must be in (0, 1], got {self.keep}")
        if self.limit is not None and not self.limit > 0:
            raise UserError(f"a limit must be above 0, got {self.limit}")
        if self.max_error is not None and not 0 <= self.max_error:
            raise UserError(f"max_error must not be negative, got {self.max_error}")

    def relative_to(self, whole: Cost) -> "Budget":
        """Returns this budget with a keep ratio in the place of an absolute limit.

        Args:
          whole: cost of the original model.
        """
        if self.limit is None:
            return self
        return Budget(self.kind, keep=min(1.0, self.limit / max(1, getattr(whole, self.kind))))


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Everything a selector sees.

    Attributes:
      tables: one for each site that may be replaced.
      budget: the user's budget.
      fixed: cost of the rest of the model, which no selection changes (other
        parameters; linear operations that are kept anyway).
    """

    tables: tuple[CandidateTable, ...]
    budget: Budget
    fixed: Cost = Cost()

    @property
    def limit(self) -> float:
        """Largest total cost of the sites in `tables` that meets the keep ratio."""
        if self.budget.keep is None:
            return np.inf
        fixed = getattr(self.fixed, self.budget.kind)
        dense = sum(table.dense_cost(self.budget.kind) for table in self.tables)
        # Rounding guard: keep = 1 must admit the dense model exactly.
        return np.floor(self.budget.keep * (fixed + dense) + 1e-6) - fixed


@dataclasses.dataclass(frozen=True)
class Selection:
    """A selector's answer.

    Attributes:
      rows: site name -> row of its table, or None to keep it dense.
      reasons: site name -> why it is kept dense; only for sites with row None.
      objective: value of what the selector minimised, e.g. the largest error.
    """

    rows: Mapping[str, int | None]
    reasons: Mapping[str, str]
    objective: float


class Selector(Protocol):
    """Picks one row per table, or none, within the budget.

    Raises InfeasibleBudgetError, naming the floor, when the budget can't be met.
    """

    def __call__(self, problem: Problem) -> Selection: ...
