"""L-Rank: squared errors and cost traded at one price for all sites."""

import numpy as np

from tfapprox.selection.error_bound import select_error_bound
from tfapprox.selection.frontier import Frontier
from tfapprox.selection.hulls import select_on_hulls
from tfapprox.selection.problem import Problem, Selection


def select_lrank(problem: Problem) -> Selection:
    """Returns the rows that minimise, site by site, at the price lambda of the budget,

      lambda C(row) + ||W - W_hat||^2,

    with the absolute error (the sum of the discarded squared singular values, in the
    Frobenius metric) and the cost C that the budget limits; see `select_on_hulls`.

    With a bound on the error instead of a keep ratio, see `select_error_bound`.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.

    References:
      Idelbayev and Carreira-Perpinan: Low-rank Compression of Neural Nets: Learning the
      Rank of Each Layer, 2020, Equation 5 and its solution by enumeration. There lambda
      is the user's; here the budget sets it.
    """
    if problem.budget.max_error is not None:
        return select_error_bound(problem)
    return select_on_hulls(problem, _squared_error)


def _squared_error(frontier: Frontier) -> np.ndarray:
    return np.square(frontier.error * frontier.table.norm)
