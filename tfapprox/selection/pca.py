"""PCA: the largest product over all sites of the energy that their responses keep."""

import numpy as np

from tfapprox.selection.error_bound import select_error_bound
from tfapprox.selection.frontier import Frontier
from tfapprox.selection.hulls import select_on_hulls
from tfapprox.selection.problem import Problem, Selection

_LEAST_ENERGY = 1e-12  # what a row keeps that loses all: its logarithm must be finite


def select_pca(problem: Problem) -> Selection:
    """Returns the rows of a large product of kept energies within the budget,

      max prod_l E_l,  E_l = 1 - ||error_l||^2,

    the share of the energy that site l's approximation keeps: of its responses, where
    the tables were made with calibration data (truncated SVD of scheme 0 is then PCA
    of the responses, with the corrected bias), or of its kernel's spectrum without.

    Greedily, the step is taken that loses least of the logarithm of the product for
    what it saves, from the dense model on, until the budget is met.

    With a bound on the error instead of a keep ratio, see `select_error_bound`.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.

    References:
      Zhang, Zou, He, Sun: Accelerating Very Deep Convolutional Networks for
      Classification and Detection, 2016, Section 2.4, Equation 14. There a step removes
      one eigenvalue, and its measure is (dE / E) / dC; but the first ranks below the full
      one save nothing at all, and candidates leave ranks out. So steps go along the lower
      convex hull of (cost, -log E), where that measure never falls.
    """
    if problem.budget.max_error is not None:
        return select_error_bound(problem)
    return select_on_hulls(problem, _lost_logarithm)


def _lost_logarithm(frontier: Frontier) -> np.ndarray:
    kept = 1.0 - np.square(frontier.error)
    return -np.log(np.maximum(kept, _LEAST_ENERGY))
