"""Which channels of a network come and go together, and what is left when some go."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfapprox.accounting.cost import Cost

Axis = np.ndarray | int
"""An axis of a weight: the class of each of its channels, or a size that stays."""


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelLayer:
    """A layer whose weights shrink with the channels around it.

    Attributes:
      name: path in the model.
      inputs, outputs: int, the class of each channel of its input and its output.
      axes: of every weight, in the layer's order. The first weight is the kernel, if
        the layer is a site.
      itemsize: bytes of one entry.
      macs: of the layer as it is, for one example; 0 for what is no linear operation.
    """

    name: str
    inputs: np.ndarray
    outputs: np.ndarray
    axes: tuple[tuple[Axis, ...], ...]
    itemsize: int = 4
    macs: int = 0

    def cost(self, alive: np.ndarray, weights: slice = slice(None)) -> Cost:
        """Returns what the layer's weights, or some of them, cost with these classes left.

        Args:
          alive: bool, one entry a class.
        """
        sizes = [_size(axes, alive) for axes in self.axes]
        whole = _size(self.axes[0], np.ones_like(alive)) if self.macs else 1
        params = sum(sizes[weights])
        return Cost(params, self.macs * sizes[0] // whole, params * self.itemsize)

    def keep(self, weights: Sequence[np.ndarray], alive: np.ndarray) -> list[np.ndarray]:
        """Returns the layer's weights without the channels that are gone."""
        return [_cut(w, axes, alive) for w, axes in zip(weights, self.axes, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """Channels that are chosen among: the outputs of one layer, or of several that are tied.

    Attributes:
      classes: int [n], in the order of the outputs.
      layers: names of the layers that make these channels.
    """

    classes: np.ndarray
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelMap:
    """A network as its channels see it.

    Channels of one class are tied, by an addition for example: they stay or go together.

    Attributes:
      layers: those with weights along channels, in order of execution.
      count: number of classes.
      frozen: why channels of a class must stay, "" where they need not; one a class.
    """

    layers: tuple[ChannelLayer, ...]
    count: int
    frozen: tuple[str, ...]

    @property
    def units(self) -> tuple[Unit, ...]:
        """The prunable channels, those with the same producers together."""
        makers: dict[int, list[str]] = {}
        for layer in self.layers:
            if layer.macs and len(layer.axes[0]) > 1:
                for channel in _produced(layer):
                    makers.setdefault(int(channel), []).append(layer.name)
        units: dict[tuple[str, ...], list[int]] = {}
        for channel, names in makers.items():
            if not self.frozen[channel]:
                units.setdefault(tuple(dict.fromkeys(names)), []).append(channel)
        return tuple(Unit(np.array(own), names) for names, own in units.items())

    def reason(self, layer: ChannelLayer) -> str:
        """Returns why none of the layer's outputs can go, "" where some can."""
        reasons = {self.frozen[int(c)] for c in layer.outputs}
        return "" if "" in reasons or not reasons else sorted(reasons)[0]

    def cost(self, alive: np.ndarray) -> Cost:
        """Returns the cost of all layers of the map with these classes left."""
        return sum((layer.cost(alive) for layer in self.layers), Cost())


def is_producer(layer: ChannelLayer) -> bool:
    """Says whether the layer makes channels of its own: its kernel has an axis of them."""
    return bool(layer.macs) and bool(len(_produced(layer)))


class Ties:
    """Classes of channels while they are found: they may be joined, and frozen.

    Channels are numbered as they are made; `classes` numbers what became of them.
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}

    def new(self, count: int) -> np.ndarray:
        """Returns `count` new channels, int [count]."""
        start = len(self._parents)
        self._parents += range(start, start + count)
        return np.arange(start, start + count)

    def tie(self, channels: np.ndarray, others: np.ndarray) -> None:
        """Joins channels one to one."""
        for one, other in zip(channels.tolist(), others.tolist(), strict=True):
            one, other = self._root(one), self._root(other)
            if one != other:
                low, high = sorted((one, other))
                self._parents[high] = low
                if high in self._reasons:
                    self._reasons.setdefault(low, self._reasons[high])

    def freeze(self, channels: np.ndarray, reason: str) -> None:
        """Makes channels stay, for the first reason that is given."""
        for channel in channels.tolist():
            self._reasons.setdefault(self._root(channel), reason)

    def classes(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Returns the class of every channel, and each class's reason to stay or ""."""
        roots = np.array([self._root(i) for i in range(len(self._parents))], int)
        first, numbers = np.unique(roots, return_inverse=True)
        return numbers, tuple(self._reasons.get(int(root), "") for root in first)

    def _root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel


def _produced(layer: ChannelLayer) -> np.ndarray:
    last = layer.axes[0][-1] if layer.axes else 0
    return last if isinstance(last, np.ndarray) else np.empty(0, int)


def _size(axes: Sequence[Axis], alive: np.ndarray) -> int:
    size = 1
    for axis in axes:
        size *= int(np.count_nonzero(alive[axis])) if isinstance(axis, np.ndarray) else axis
    return size


def _cut(weight: np.ndarray, axes: Sequence[Axis], alive: np.ndarray) -> np.ndarray:
    for place, axis in enumerate(axes):
        if isinstance(axis, np.ndarray):
            weight = np.compress(alive[axis], weight, axis=place)
    return np.ascontiguousarray(weight)
