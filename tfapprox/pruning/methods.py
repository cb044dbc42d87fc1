"""When each channel goes: filter thresholding and provable filter pruning."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from tfapprox.pruning.channels import ChannelLayer, ChannelMap, Unit, is_producer


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What methods judge channels by.

    Attributes:
      kernels: of the sites among the map's layers, [..., in, out], by name.
      rows: of the same layers' inputs: float [n, taps * in], laid out like the kernel;
        empty where a method does not ask for them.
    """

    kernels: Mapping[str, np.ndarray]
    rows: Mapping[str, np.ndarray]


class Pruning(Protocol):
    """A method that removes channels.

    Attributes:
      needs_data: whether it looks at the layers' inputs.
      bounds_error: whether its levels are errors, so that a bound on them makes sense.
    """

    needs_data: bool
    bounds_error: bool

    def levels(self, channels: ChannelMap, unit: Unit, evidence: Evidence) -> np.ndarray:
        """Returns the level at which each of the unit's channels goes, float [n].

        One level is set for the whole network: what is at or below it goes. The last
        channel of a unit always stays.
        """
        ...


class FilterThresholding:
    """FT: the same share of every unit's channels goes, those of the smallest filters.

    A channel's level is the share of its unit that goes with it. Where several layers
    make a channel together (a residual addition), its filters' squared norms add up.

    References:
      Li et al.: Pruning Filters for Efficient ConvNets, 2016 (with the L2 norm, as in
      the supplement of Liebenwein et al. 2021, B.4).
    """

    needs_data = False
    bounds_error = False

    def levels(self, channels: ChannelMap, unit: Unit, evidence: Evidence) -> np.ndarray:
        norms = np.zeros(channels.count)
        for layer in channels.layers:
            if layer.name in unit.layers and is_producer(layer):
                kernel = evidence.kernels[layer.name].astype(np.float64)
                squares = np.square(kernel).reshape(-1, kernel.shape[-1]).sum(axis=0)
                np.add.at(norms, layer.outputs, squares)
        ranks = np.argsort(np.argsort(norms[unit.classes], kind="stable"), kind="stable")
        return (ranks + 1) / len(unit.classes)


class ProvableFilterPruning:
    """PFP: channels go in the order of their sensitivity, up to one error bound for all.

    A channel's sensitivity is the largest share that it has in any response of any layer
    that reads it, over the data, s_j = max w_j a_j / sum_i w_i a_i; positive and negative
    products are looked at apart, so that shares are in [0, 1]. Dropping a set of
    channels changes both parts of every response seen by at most the sum of their
    sensitivities, relatively; that sum is a channel's level, added up from the least
    sensitive one of its unit.

    We depart from the paper in dropping the least sensitive channels, where it draws
    channels at random and bounds the error with high probability: this bound is sure,
    but for inputs that were seen only.

    References:
      Liebenwein, Baykal, Lang, Feldman, Rus: Provable Filter Pruning for Efficient
      Neural Networks, 2020, Definition 1 and Algorithm 2.
    """

    needs_data = True
    bounds_error = True

    def levels(self, channels: ChannelMap, unit: Unit, evidence: Evidence) -> np.ndarray:
        own = np.zeros(len(unit.classes))
        for layer in channels.layers:
            rows = evidence.rows.get(layer.name)
            if rows is not None and np.isin(layer.inputs, unit.classes).any():
                shares = sensitivities(rows, evidence.kernels[layer.name], layer, unit.classes)
                own = np.maximum(own, shares)
        order = np.argsort(own, kind="stable")
        levels = np.empty(len(own))
        levels[order] = np.cumsum(own[order])
        return levels


PRUNINGS: dict[str, Pruning] = {"ft": FilterThresholding(), "pfp": ProvableFilterPruning()}
"""Every method by its name; they take the place of a decomposition."""


def sensitivities(
    rows: np.ndarray, kernel: np.ndarray, layer: ChannelLayer, classes: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Returns the largest share of each class of input channels in any response, in [0, 1].

    Args:
      rows: inputs [n, taps * I], as `calibration.patches.patch_rows` has them.
      kernel: [..., I, O].
      layer: says which channels of the input are of which class.
      classes: to look at.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1]).astype(np.float32)
    places = np.tile(layer.inputs, len(matrix) // len(layer.inputs))
    parts = [np.maximum(rows, 0).astype(np.float32), np.maximum(-rows, 0).astype(np.float32)]
    signed = [np.maximum(matrix, 0), np.maximum(-matrix, 0)]
    largest = np.zeros(len(classes))
    for one, other in ((0, 1), (1, 0)):  # products above zero, and products below
        total = parts[0] @ signed[one] + parts[1] @ signed[other]
        total[total == 0] = np.inf
        for index, channel in enumerate(classes):
            own = np.flatnonzero(places == channel)
            if len(own):
                share = parts[0][:, own] @ signed[one][own] + parts[1][:, own] @ signed[other][own]
                largest[index] = max(largest[index], float((share / total).max(initial=0.0)))
    return largest
