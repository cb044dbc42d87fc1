"""Measured latency before, during and after a compression."""

from collections.abc import Sequence
from pathlib import Path

from tfapprox.accounting.site import Site
from tfapprox.compression.job import Job
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError
from tfapprox.planning import keep_fastest
from tfapprox.progress import Progress
from tfapprox.rewriters.plan import Plan
from tfapprox.serving.benchmark import LatencyRequest, measure_saved_models
from tfapprox.serving.inputs import Inputs, generate_inputs
from tfapprox.serving.latency import Latency
from tfapprox.serving.model_latency import Prediction, TimedModel, time_saved_model
from tfapprox.serving.signature import default_signature, read_signatures


class SlowerError(Exception):
    """The result is slower than the original, which the config does not allow."""

    def __init__(self, plan: Plan, latency: Latency):
        super().__init__(plan, latency)
        self.plan, self.latency = plan, latency


def time_original(
    source: Path,
    inputs: Inputs | None,
    tags: Sequence[str],
    signature: str | None,
    config: CompressionConfig,
    threads: int | None,
    sites: Sequence[Site],
    progress: Progress,
) -> TimedModel:
    progress("timing the original", 0, 0)
    name, feed = feed_for(source, inputs, tags, signature, config.batch_size, config.seed)
    request = LatencyRequest(
        str(source), str(source), name, (config.batch_size,), tuple(tags), threads
    )
    return time_saved_model(request, feed, [site for site in sites if config.admits(site.name)])


def measure_result(job: Job, staging: Path, progress: Progress) -> tuple[Latency, ...]:
    sizes = job.measured_sizes
    if not sizes:
        return ()
    progress("measuring", 0, 0)
    name, feed = feed_for(
        job.source, job.inputs, job.tags, job.signature, max(sizes), job.config.seed
    )
    request = LatencyRequest(str(job.source), str(staging), name, sizes, job.tags, job.threads)
    return measure_saved_models(request, feed)


def check_latency(job: Job, plan: Plan, latencies: Sequence[Latency]) -> list[str]:
    """Returns how the prediction bore out; nothing if the plan came without one.

    Raises:
      SlowerError: the result is slower than the original.
    """
    (latency,) = (x for x in latencies if x.batch_size == job.config.batch_size)
    if latency.ratio < 1:
        raise SlowerError(plan, latency)
    if "latency" not in plan.settings:
        return []
    return [Prediction.from_json(plan.settings["latency"]).compare(latency)]


def with_fewer_sites(slower: SlowerError) -> tuple[Plan, str]:
    """Returns the better half of a plan that made the model slower, and a note on it.

    Raises:
      UserError: there is but one site left.
    """
    plan, latency = slower.plan, slower.latency
    figures = f"{latency.ratio:.2f}x at batch {latency.batch_size}"
    count = len(plan.choices)
    if count < 2:
        raise UserError(
            f"nothing was measured to be faster than the original ({figures} with one site "
            "replaced), so nothing was written: keep the original, or give a budget of MACs or "
            "parameters without --objective=latency"
        )
    note = (
        f"With {count} sites replaced the model was measured to be slower ({figures}): only "
        f"the {count // 2} that save most time are; the budget may be missed for it"
    )
    return keep_fastest(plan, count // 2), note


def feed_for(
    source: Path,
    inputs: Inputs | None,
    tags: Sequence[str],
    signature: str | None,
    batch_size: int,
    seed: int,
) -> tuple[str, Inputs]:
    """Returns the name of the signature to run, and what to feed it."""
    signatures = read_signatures(str(source), tags)
    name = signature or default_signature(signatures)
    return name, inputs or generate_inputs(signatures[name], batch_size, seed)
