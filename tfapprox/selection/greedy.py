"""Greedy accuracy: ranks by what each site's replacement alone does to a user's score."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.optimize

from tfapprox.accounting.site import Site
from tfapprox.errors import UserError
from tfapprox.selection.alds import select_alds
from tfapprox.selection.frontier import make_frontier
from tfapprox.selection.problem import CandidateTable, Configuration, CostKind, Problem, Selection

POINTS = 10
"""Rows of a site that are evaluated, at most."""

Score = Callable[[Site | None, Configuration | None], float]
"""Returns the model's score, higher is better, with one site replaced; None, None: with none."""


def select_greedy(problem: Problem) -> Selection:
    """Returns every site's cheapest row whose own loss of score is at most a common bound.

    The errors of the tables are losses (see `score_tables`). The bound is the least that
    meets the budget; so the search over all sites takes no evaluation beyond those in
    the tables. What several replacements lose together is not looked at: verify it.
    With a bound on the error, that is the loss a site may cause on its own.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.

    References:
      The selection of per-layer ratios in AIMET (Kuzmin et al.: Taxonomy and Evaluation
      of Structured Compression of Convolutional Neural Networks, 2019). We depart in
      what is tabulated: undominated candidates of all methods, not a grid of ratios.
    """
    return select_alds(problem)


def score_tables(
    sites: Sequence[Site],
    tables: Sequence[CandidateTable],
    kind: CostKind,
    score: Score,
    progress: Callable[[str, int, int], None],
) -> tuple[list[CandidateTable], list[CandidateTable]]:
    """Returns the rows that were evaluated: with their kernel errors, and with their losses.

    Of each site at most POINTS rows, evenly spaced among the undominated ones, are
    evaluated. The loss is the score without any replacement less that with the row's,
    at least 0, made to rise as the cost falls (the isotonic fit: where a costlier row
    loses more, by chance, both get the mean).

    Args:
      sites, tables: in the same order.
      kind: cost that the budget limits.
      score: evaluates the model; may remember, see `ScoreCache`.
      progress: told of every evaluation.
    """
    kept = []
    for table in tables:
        rows = make_frontier(table, kind).rows
        places = np.unique(np.linspace(0, len(rows) - 1, min(POINTS, len(rows))).round())
        kept.append(table.take([int(rows[int(place)]) for place in places]))
    total, done = 1 + sum(map(len, kept)), 1
    progress("evaluating", 0, total)
    whole = score(None, None)
    lossy = []
    for site, table in zip(sites, kept, strict=True):
        losses = []
        for configuration in table.configurations:
            progress("evaluating", done, total)
            losses.append(max(0.0, whole - score(site, configuration)))
            done += 1
        fitted = scipy.optimize.isotonic_regression(losses).x if losses else np.empty(0)
        lossy.append(dataclasses.replace(table, error=np.asarray(fitted, np.float64)))
    progress("evaluating", total, total)
    return kept, lossy


class ScoreCache:
    """Remembers scores in a JSON file, so that an interrupted search goes on where it was.

    The file belongs to one model, by its kernels, to what they are fitted to, and to one way
    to evaluate: it can't know when the user's labels change.
    """

    def __init__(self, score: Score, sites: Sequence[Site], path: Path, fitted_to: str = ""):
        """Reads the file, if there is one.

        Args:
          score: what is remembered.
          sites: of the model.
          path: of the file.
          fitted_to: names the calibration data, and how they are used; "" without any.

        Raises:
          UserError: it is not of this kind, or of another model or other calibration data.
        """
        self._score, self._path = score, path
        self._model = _digest(sites, fitted_to)
        self._scores: dict[str, float] = self._read() if path.exists() else {}

    def __call__(self, site: Site | None, configuration: Configuration | None) -> float:
        key = "original" if site is None else f"{site.name} {configuration}"
        if key not in self._scores:
            found = float(self._score(site, configuration))
            if not np.isfinite(found):
                raise UserError(f"the evaluation returned {found} for {key}; it must be a number")
            self._scores[key] = found
            self._write()
        return self._scores[key]

    def _read(self) -> dict[str, float]:
        try:
            body = json.loads(self._path.read_text())
            model = body["tfapprox_scores"]
            scores = {key: float(value) for key, value in body["scores"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self._path} is no cache of scores ({type(error).__name__}: {error}); "
                "delete it or name another file"
            ) from error
        if model != self._model:
            raise UserError(
                f"{self._path} has the scores of another model, or of fits to other calibration "
                "data; delete it or name another file"
            )
        return scores

    def _write(self) -> None:
        fresh = self._path.with_name(self._path.name + ".tmp")
        try:
            fresh.write_text(
                json.dumps({"tfapprox_scores": self._model, "scores": self._scores}, indent=1)
            )
            os.replace(fresh, self._path)
        except OSError as error:
            raise UserError(f"{self._path} can't be written: {error.strerror}") from error


def _digest(sites: Sequence[Site], fitted_to: str) -> str:
    digest = hashlib.sha256(fitted_to.encode())
    for site in sites:
        weight = "" if site.weight is None else type(site.weight).__name__
        digest.update(f"{site.name} {site.kernel.shape} {site.kernel.dtype}{weight}".encode())
        digest.update(np.ascontiguousarray(site.kernel).tobytes())
    return digest.hexdigest()[:16]
