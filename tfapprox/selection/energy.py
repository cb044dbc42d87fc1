"""SVD-Energy: one share of discarded energy for all sites."""

import dataclasses

from tfapprox.selection.alds import select_alds
from tfapprox.selection.problem import Problem, Selection


def select_energy(problem: Problem) -> Selection:
    """Returns every site's cheapest row that discards at most tau of the kernel's energy.

      sum_{i > j} s_i^2 / sum_i s_i^2 <= tau,

    with one tau for all sites, the smallest that meets the budget. In the Frobenius
    metric the left side is the squared error, and squares keep the order: the rows are
    those of `select_alds` there, and the objective is tau.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.

    References:
      Alvarez and Salzmann 2017, and SVD-Energy in Liebenwein et al. 2021, supplement.
    """
    selection = select_alds(problem)
    return dataclasses.replace(selection, objective=selection.objective**2)
