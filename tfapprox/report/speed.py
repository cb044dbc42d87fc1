"""Whether the compressed model is faster, and if not, why."""

from tfapprox.report.report import Report
from tfapprox.rewriters.plan import Verdict
from tfapprox.serving.latency import Latency

# Below these, the figure is taken for the cause.
_CLEAR_GAIN = 1.1  # of the medians: beyond what rounds differ by on a quiet machine
_SMALL_SPEEDUP = 1.25  # of MACs: within what an extra operation per site costs
_BUSY_MACS_PER_SECOND = 2e9  # a processor that computes does several times as many
_SMALL_SITE_MACS = 1e6  # dense work of one site in one call, a few tens of microseconds


def speed_verdict(report: Report) -> str:
    """Returns a sentence: measurably faster, by how much; or not, and why not.

    A model counts as faster at a batch size when it is faster in three of four
    rounds. The reasons are read off the numbers: how many MACs are saved at all, how
    busy the original keeps the processor, how large the replaced sites are, and
    whether grouped stages carry them.
    """
    if not report.latency:
        return "Speed was not measured."
    faster = [latency for latency in report.latency if latency.is_faster]
    promised = _ratio(report.before.macs, report.after.macs)
    if not faster:
        unsure = [latency for latency in report.latency if _is_unsure(latency)]
        if unsure:
            ranges = ", ".join(
                f"{x.ratio_range[0]:.2f}x to {x.ratio_range[1]:.2f}x at batch {x.batch_size}"
                for x in unsure
            )
            return (
                f"Not measurably faster ({_figures(report.latency)}): the machine was too busy to "
                f"tell, half of the rounds lie within {ranges}; measure again when it is quiet."
            )
        reasons = "; ".join(_reasons(report)) or (
            "the original already spends its time on memory or on other operations than "
            "those replaced"
        )
        return f"Not measurably faster ({_figures(report.latency)}): {reasons}."
    best = max(faster, key=lambda latency: latency.ratio)
    verdict = (
        f"Measurably faster: {best.ratio:.2f}x at batch {best.batch_size}, "
        f"with {promised:.2f}x fewer MACs"
    )
    slower = [latency for latency in report.latency if not latency.is_faster]
    if not slower:
        return f"{verdict}."
    reasons = "; ".join(_reasons(report))
    return f"{verdict}. Not so ({_figures(slower)}){': ' + reasons if reasons else ''}."


def _is_unsure(latency: Latency) -> bool:
    """Says whether the median promises what the spread of the rounds then denies."""
    return latency.ratio > _CLEAR_GAIN and latency.ratio_range[0] <= 1


def _figures(latencies: tuple[Latency, ...] | list[Latency]) -> str:
    return ", ".join(f"{x.ratio:.2f}x at batch {x.batch_size}" for x in latencies)


def _reasons(report: Report) -> list[str]:
    replaced = [v for v in report.plan.verdicts if v.choice is not None]
    if not replaced:
        return ["no site was replaced"]
    reasons = []
    promised = _ratio(report.before.macs, report.after.macs)
    if promised < _SMALL_SPEEDUP:
        reasons.append(
            f"only {promised:.2f}x fewer MACs, about what the {len(replaced)} additional "
            "operations cost"
        )
    slow = [x for x in report.latency if not x.is_faster]
    rates = [_macs_per_second(report, x) for x in slow]
    if rates and max(rates) < _BUSY_MACS_PER_SECOND:
        reasons.append(
            f"the original runs only {max(rates) / 1e9:.2f} GMAC/s, so the fixed cost of each "
            "operation, not arithmetic, takes the time, and a factorization adds operations"
        )
    batch_size = max(x.batch_size for x in slow or report.latency)
    small = [v for v in replaced if v.before.macs * batch_size < _SMALL_SITE_MACS]
    if 2 * len(small) > len(replaced):
        reasons.append(
            f"{len(small)} of {len(replaced)} replaced sites are small "
            f"(below {_SMALL_SITE_MACS / 1e6:.0f} million MACs a call)"
        )
    if _saved(replaced, grouped=True) > _saved(replaced, grouped=False):
        reasons.append("most MACs are saved in grouped stages, which CPUs run slowly")
    return reasons


def _saved(verdicts: list[Verdict], grouped: bool) -> int:
    return sum(
        v.before.macs - v.after.macs
        for v in verdicts
        if v.choice is not None and (v.choice.settings.get("slices", 1) > 1) == grouped
    )


def _macs_per_second(report: Report, latency: Latency) -> float:
    return report.before.macs * latency.batch_size / (latency.original.p50 / 1e3)


def _ratio(before: float, after: float) -> float:
    return before / after if after else 1.0
