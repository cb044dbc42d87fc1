"""Geometry of the page's drawings: the template turns it into SVG.

Drawn by hand, not by a plotting library: the page stays small, follows the reader's
light or dark colours, and has nothing to load.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from tfapprox.report.spectra import SiteSpectrum
from tfapprox.serving.latency import Latency

SPECTRUM_WIDTH, SPECTRUM_HEIGHT = 220, 84


@dataclasses.dataclass(frozen=True)
class SpectrumPlot:
    """A curve of singular values in a box of SPECTRUM_WIDTH x SPECTRUM_HEIGHT.

    Attributes:
      curve, kept: SVG paths of the whole curve and of the area up to the chosen rank
        ("" when dense).
      rank_x: where the chosen rank is, or None.
    """

    curve: str
    kept: str
    rank_x: float | None


def plot_spectrum(spectrum: SiteSpectrum) -> SpectrumPlot:
    """Returns the drawing; both axes start at 0, and the largest value fills the height."""
    last = max(spectrum.full_rank, 1)
    points = [
        (_round(rank / last * SPECTRUM_WIDTH), _round((1 - value) * SPECTRUM_HEIGHT))
        for rank, value in zip(spectrum.ranks, spectrum.values, strict=True)
    ]
    start = [(0.0, points[0][1]), *points]
    if spectrum.rank is None:
        return SpectrumPlot(_path(start), "", None)
    rank_x = _round(spectrum.rank / last * SPECTRUM_WIDTH)
    inside = [point for point in start if point[0] <= rank_x]
    edge = (rank_x, _height_at(rank_x, start))
    area = [(0.0, SPECTRUM_HEIGHT), *inside, edge, (rank_x, SPECTRUM_HEIGHT)]
    return SpectrumPlot(_path(start), _path(area) + "Z", rank_x)


@dataclasses.dataclass(frozen=True)
class Bar:
    """A horizontal bar with a whisker, in percent of the width."""

    length: float
    whisker: float


def latency_bars(latency: Sequence[Latency]) -> list[tuple[Bar, Bar]]:
    """Returns the bars of original and compressed at each batch size.

    Each batch size has its own scale: times grow with it, and only the pair compares.
    """
    bars = []
    for one in latency:
        longest = max(one.original.p95, one.compressed.p95)
        original, compressed = (
            Bar(_round(100 * x.p50 / longest), _round(100 * x.p95 / longest))
            for x in (one.original, one.compressed)
        )
        bars.append((original, compressed))
    return bars


def _height_at(x: float, points: Sequence[tuple[float, float]]) -> float:
    """Returns y at `x` by linear interpolation."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            return _round(y0 + (y1 - y0) * (x - x0) / (x1 - x0)) if x1 > x0 else y1
    return points[-1][1]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points)


def _round(value: float) -> float:
    return round(value, 2)
