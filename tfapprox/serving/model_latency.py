"""The latency of a whole model: measured before, predicted for a plan, compared after."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfapprox.accounting.site import Site
from tfapprox.serving.benchmark import LatencyRequest, storable
from tfapprox.serving.inputs import Inputs
from tfapprox.serving.latency import Latency, TimingOptions
from tfapprox.serving.latency_cache import LatencyCache
from tfapprox.serving.site_latency import SiteTimingOptions
from tfapprox.serving.timing_process import timing_answers
from tfapprox.serving.workload import workloads

_NEAR = 0.15  # a prediction this far off, relative to what was measured, still counts as right
_TIMING = TimingOptions(min_rounds=15, min_seconds=6.0, max_rounds=400)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the times of the sites promise for the whole model, in milliseconds of one call.

    Attributes:
      original: measured, before planning.
      compressed: the original, less what every site was measured to save.
      batch_size, threads: of the call.
    """

    original: float
    compressed: float
    batch_size: int
    threads: int | None

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Prediction":
        return cls(**body)

    def compare(self, latency: Latency) -> str:
        """Returns a sentence on how the measurement bears the prediction out.

        Shares of the original are compared, each measured side by side with it, so that
        a machine busier now than at planning does not count.
        """
        expected = self.compressed / self.original
        found = latency.compressed.p50 / latency.original.p50
        figures = (
            f"{found:.2f} of the original's latency at batch {self.batch_size} "
            f"({latency.compressed.p50:.2f} of {latency.original.p50:.2f} ms)"
        )
        if abs(expected - found) <= _NEAR * found:
            return f"Measured {figures}, as predicted ({expected:.2f})."
        return (
            f"Measured {figures}, but predicted was {expected:.2f}, off by "
            f"{abs(expected - found) / found:.0%}: sites timed one by one do not tell all of this "
            "model, or the machine was busy; repeat it on an idle one"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class TimedModel:
    """The original model's latency, and how to time its sites.

    Attributes:
      nanoseconds: of one call.
      dense: nanoseconds of the sites' operations, timed in turns with the model, by
        `Workload.key`.
      options: at what batch size and threads, and how.
      cache: of site times; this machine's own when None.
    """

    nanoseconds: int
    dense: Mapping[str, float]
    options: SiteTimingOptions
    cache: LatencyCache | None = None

    def prediction(self, saved: int) -> Prediction:
        """Returns the prediction for a plan that saves so many nanoseconds."""
        return Prediction(
            self.nanoseconds / 1e6,
            (self.nanoseconds - saved) / 1e6,
            self.options.batch_size,
            self.options.threads,
        )


def time_saved_model(
    request: LatencyRequest,
    inputs: Inputs,
    sites: Sequence[Site],
    cache: LatencyCache | None = None,
) -> TimedModel:
    """Returns a SavedModel's latency, measured in a process of its own.

    Args:
      request: its original model is timed at its first batch size.
      inputs: of the signature.
      sites: whose operations are timed beside it.
      cache: for the times of chains later on.

    Raises:
      UserError: the model can't be loaded or run.
    """
    options = SiteTimingOptions(request.batch_sizes[0], request.threads)
    uses = list(dict.fromkeys(u for site in sites for u in workloads(site, options.batch_size)))
    body = {
        "model": dataclasses.asdict(request),
        "workloads": [workload.to_json() for workload in uses],
        "threads": options.threads,
        "options": dataclasses.asdict(_TIMING),
    }
    (answer,) = timing_answers(body, storable(inputs))
    dense = {use.key: time for use, time in zip(uses, answer["dense"], strict=True)}
    return TimedModel(max(1, round(answer["model"])), dense, options, cache)
