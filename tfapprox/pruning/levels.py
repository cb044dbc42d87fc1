"""One level for the whole network: how far it must rise until a budget is met."""

from collections.abc import Sequence

import numpy as np

from tfapprox.errors import InfeasibleBudgetError, UserError
from tfapprox.pruning.channels import ChannelMap, Unit
from tfapprox.selection.frontier import COST_WORDS
from tfapprox.selection.problem import Budget


def survivors(
    channels: ChannelMap, units: Sequence[Unit], levels: Sequence[np.ndarray], level: float
) -> np.ndarray:
    """Returns which classes stay at a level, bool [count]: the rest of every unit goes.

    Every unit keeps at least its last channel.
    """
    alive = np.ones(channels.count, bool)
    for unit, own in zip(units, levels, strict=True):
        alive[unit.classes] = own > level
        alive[unit.classes[np.argmax(own)]] = True
    return alive


def highest_survivors(
    channels: ChannelMap, units: Sequence[Unit], levels: Sequence[np.ndarray], counts: Sequence[int]
) -> np.ndarray:
    """Returns which classes stay when so many of every unit do, bool [count]."""
    alive = np.ones(channels.count, bool)
    for unit, own, count in zip(units, levels, counts, strict=True):
        order = np.argsort(own, kind="stable")
        alive[unit.classes[order[: len(order) - count]]] = False
    return alive


def smallest_level(
    channels: ChannelMap,
    units: Sequence[Unit],
    levels: Sequence[np.ndarray],
    budget: Budget,
    whole: float,
) -> float:
    """Returns the smallest level at which the budget is met; 0 removes nothing.

    The cost never rises with the level, so that bisection over the levels that occur
    finds it.

    Args:
      budget: with a keep ratio of parameters, MACs or bytes.
      whole: cost of the whole model, of the budget's kind.

    Raises:
      InfeasibleBudgetError: the budget can't be met; the message names the floor.
    """
    kind, keep = budget.kind, budget.keep
    if kind == "latency" or keep is None:
        raise UserError(
            f"pruning takes a share of params, macs or bytes, not a budget of {kind}: "
            "give keep_params or keep_macs"
        )
    fixed = whole - getattr(channels.cost(np.ones(channels.count, bool)), kind)
    limit = np.floor(keep * whole + 1e-6) - fixed

    def cost_at(level: float) -> float:
        return getattr(channels.cost(survivors(channels, units, levels, level)), kind)

    steps = np.unique(np.concatenate([np.zeros(1), *levels]))
    if cost_at(steps[-1]) > limit:
        floor = (fixed + cost_at(steps[-1])) / whole
        raise InfeasibleBudgetError(
            f"keeping {keep:g} of the {COST_WORDS[kind]} is out of reach: {floor:.4f} is left "
            "with one channel in every layer that can be pruned",
            floor,
        )
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        if cost_at(steps[middle]) <= limit:
            high = middle
        else:
            low = middle + 1
    return float(steps[low])
