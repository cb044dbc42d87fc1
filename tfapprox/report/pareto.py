"""Geometry of scatter plots with a Pareto front: the template turns it into SVG."""

import dataclasses
import math
from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 520, 320
LEFT, TOP, RIGHT, BOTTOM = 62, 26, 500, 268
_TICKS = 5
_LABEL_ABOVE, _LABEL_BELOW, _LABEL_WIDTH, _LABEL_HEIGHT = 10, 20, 26, 12
_MARGIN = 0.15  # of the spread, above and below


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measured model: what it costs (x) and what it is worth (y)."""

    label: str
    x: float
    y: float
    is_original: bool = False


@dataclasses.dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
      name: below the axis, or in the title.
      form: number -> text.
      high_is_good: the direction that counts as better.
      from_zero: whether 0 is shown.
    """

    name: str
    form: Callable[[float], str]
    high_is_good: bool = False
    from_zero: bool = True


@dataclasses.dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclasses.dataclass(frozen=True)
class PlotPoint:
    """A circle; its kind is "original", "efficient" (on the front) or "beaten"."""

    x: float
    y: float
    label_y: float
    label: str
    value: str
    kind: str


@dataclasses.dataclass(frozen=True)
class ParetoPlot:
    """A plot in a box of WIDTH x HEIGHT; coordinates are SVG's, y downwards."""

    title: str
    x_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[PlotPoint, ...]
    front: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    top: int = TOP
    right: int = RIGHT
    bottom: int = BOTTOM


def efficient(samples: Sequence[Sample], x: Axis, y: Axis) -> list[Sample]:
    """Returns the samples that no other one beats in both directions, by ascending x.

    A sample is beaten by one that is nowhere worse and somewhere better.
    """

    def gains(sample: Sample) -> tuple[float, float]:
        return (
            sample.x if x.high_is_good else -sample.x,
            sample.y if y.high_is_good else -sample.y,
        )

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a != b and a[0] >= b[0] and a[1] >= b[1]

    all_gains = [gains(sample) for sample in samples]
    kept = [
        sample
        for sample, mine in zip(samples, all_gains, strict=True)
        if not any(beats(other, mine) for other in all_gains)
    ]
    return sorted(kept, key=lambda sample: sample.x)


def plot_pareto(samples: Sequence[Sample], x: Axis, y: Axis) -> ParetoPlot:
    """Returns the drawing of at least one sample."""
    x_ticks = _ticks([sample.x for sample in samples], x.from_zero)
    y_ticks = _ticks([sample.y for sample in samples], y.from_zero)

    def place_x(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * _part(value, x_ticks), 1)

    def place_y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * _part(value, y_ticks), 1)

    front = efficient(samples, x, y)
    points: list[PlotPoint] = []
    for sample in samples:
        at = place_x(sample.x), place_y(sample.y)
        value = f"{x.name} {x.form(sample.x)}, {y.name} {y.form(sample.y)}"
        kind = "original" if sample.is_original else "efficient" if sample in front else "beaten"
        points.append(PlotPoint(*at, _label_y(at, points), sample.label, value, kind))
    return ParetoPlot(
        f"{y.name} against {_lower(x.name)}",
        x.name,
        tuple(Tick(place_x(value), x.form(value)) for value in x_ticks),
        tuple(Tick(place_y(value), y.form(value)) for value in y_ticks),
        tuple(points),
        "M" + "L".join(f"{place_x(s.x):g},{place_y(s.y):g}" for s in front),
    )


def _label_y(at: tuple[float, float], others: Sequence[PlotPoint]) -> float:
    """Returns the height of a label: above its point, or below where a label is in the way."""
    above = at[1] - _LABEL_ABOVE
    taken = any(
        abs(at[0] - other.x) < _LABEL_WIDTH and abs(above - other.label_y) < _LABEL_HEIGHT
        for other in others
    )
    return round(at[1] + _LABEL_BELOW if taken else above, 1)


def _lower(name: str) -> str:
    """Returns "MACs kept" as it is and "Time kept" as "time kept"."""
    return name if name[1].isupper() else name[0].lower() + name[1:]


def _part(value: float, ticks: Sequence[float]) -> float:
    return (value - ticks[0]) / (ticks[-1] - ticks[0])


def _ticks(values: Sequence[float], from_zero: bool) -> list[float]:
    """Returns round numbers, evenly spaced, that enclose all values."""
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    spread = (high - low) or 0.1 * abs(high) or 1.0
    if not from_zero:
        low, high = low - _MARGIN * spread, high + _MARGIN * spread
    rough = spread / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(n for n in (1, 2, 2.5, 5, 10) if n * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        last += 1
    return [round(i * step, 12) for i in range(first, last + 1)]
