"""How long two models take, measured side by side on this machine."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfapprox.serving import c_api

Runnable = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class TimingOptions:
    """How long to measure.

    Attributes:
      warm_up_rounds: run and thrown away.
      min_rounds: measured at least, each running every model once.
      min_seconds: go on until so much time was measured, warm-up apart.
      max_rounds: and stop here at the latest.
    """

    warm_up_rounds: int = 3
    min_rounds: int = 10
    min_seconds: float = 1.0
    max_rounds: int = 2000


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median, 95th percentile and, as spread, the quartiles."""

    p50: float
    p95: float
    p25: float
    p75: float

    @classmethod
    def of(cls, seconds: np.ndarray) -> "Timing":
        quantiles = np.percentile(seconds * 1e3, [50, 95, 25, 75])
        return cls(*(float(value) for value in quantiles))


@dataclasses.dataclass(frozen=True)
class Latency:
    """The original and the compressed model, measured in turns.

    Attributes:
      batch_size: examples a call.
      original, compressed: see `Timing`.
      rounds: calls of each model that were measured.
      threads: of each of TensorFlow's two pools; None for its default.
      loader: "C++" (as TF Serving) or "Python".
      tensorflow_version: of the libraries that ran.
      ratio_range: quarter and three-quarter point of original / compressed over the
        rounds: the spread that `ratio` should be read with.
    """

    batch_size: int
    original: Timing
    compressed: Timing
    rounds: int
    threads: int | None
    loader: str
    tensorflow_version: str
    ratio_range: tuple[float, float]

    @property
    def ratio(self) -> float:
        """How many times faster the compressed model is, by the medians."""
        return self.original.p50 / self.compressed.p50

    @property
    def is_faster(self) -> bool:
        """Whether it is faster in three rounds of four, and so not by chance alone."""
        return self.ratio_range[0] > 1

    def to_json(self) -> dict:
        return {**dataclasses.asdict(self), "ratio": self.ratio}

    @classmethod
    def from_json(cls, body: Mapping) -> "Latency":
        fields = {k: v for k, v in body.items() if k != "ratio"}
        fields["original"] = Timing(**fields["original"])
        fields["compressed"] = Timing(**fields["compressed"])
        fields["ratio_range"] = tuple(fields["ratio_range"])
        return cls(**fields)


def time_interleaved(
    runnables: Sequence[Runnable], options: TimingOptions = TimingOptions()
) -> np.ndarray:
    """Returns the seconds each call took, [rounds, runnables].

    Each round calls every runnable once, in alternating order, so that whatever
    else the machine does meets all of them alike.
    """
    for _ in range(options.warm_up_rounds):
        for call in runnables:
            call()
    rows: list[list[float]] = []
    total = 0.0
    while len(rows) < options.min_rounds or total < options.min_seconds:
        if len(rows) >= options.max_rounds:
            break
        order = range(len(runnables)) if len(rows) % 2 == 0 else range(len(runnables))[::-1]
        row = [0.0] * len(runnables)
        for index in order:
            start = time.perf_counter()
            runnables[index]()
            row[index] = time.perf_counter() - start
        rows.append(row)
        total += sum(row)
    return np.array(rows)


def compare_latency(
    original: Runnable,
    compressed: Runnable,
    batch_size: int,
    options: TimingOptions = TimingOptions(),
    *,
    threads: int | None = None,
    loader: str = "Python",
) -> Latency:
    """Returns the latency of two runnables in this process; the other arguments are recorded."""
    seconds = time_interleaved([original, compressed], options)
    ratios = np.percentile(seconds[:, 0] / seconds[:, 1], [25, 75])
    return Latency(
        batch_size,
        Timing.of(seconds[:, 0]),
        Timing.of(seconds[:, 1]),
        len(seconds),
        threads,
        loader,
        c_api.tensorflow_version(),
        (float(ratios[0]), float(ratios[1])),
    )
