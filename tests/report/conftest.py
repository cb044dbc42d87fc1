"""A report made up in full, without running anything."""

import pytest

from tfapprox.accounting.cost import Cost
from tfapprox.report.environment import Environment
from tfapprox.report.report import ModelSize, Report, Scores
from tfapprox.report.spectra import SiteSpectrum
from tfapprox.report.sweep import Sweep, SweepPoint
from tfapprox.rewriters.agreement import OutputAgreement, Verification
from tfapprox.rewriters.plan import Plan, Verdict
from tfapprox.selection.problem import Configuration
from tfapprox.serving.latency import Latency, Timing

HOSTILE = "</script><img src=x onerror=\"alert('1')\">[red]\\{{ 7 * 7 }}"


def latency(batch_size: int, original: float, compressed: float) -> Latency:
    old, new = (Timing(p, 1.3 * p, 0.9 * p, 1.1 * p) for p in (original, compressed))
    ratio = original / compressed
    return Latency(batch_size, old, new, 40, 2, "C++", "2.21.0", (0.9 * ratio, 1.1 * ratio))


def verdict(i: int, name: str) -> Verdict:
    cost = Cost(3000 * (i + 1), 10**7 * (i + 1), 12000 * (i + 1))
    if i % 3 == 2:
        reason = "no candidate is cheaper"
        return Verdict(name, "dense", (1, 1, 30, 100), None, reason, 0.0, cost, cost)
    choice = Configuration("svd", {"scheme": i % 2, "slices": 1, "rank": 8})
    half = Cost(cost.params // 2, cost.macs // 2, cost.bytes // 2)
    return Verdict(name, "conv2d", (3, 3, 30, 100), choice, "", 0.1 + 0.01 * i, cost, half)


def make_report(sites: int = 3, **changes) -> Report:
    names = [HOSTILE, *(f"block_{i}/conv/Conv2D" for i in range(1, sites))]
    verdicts = tuple(verdict(i, name) for i, name in enumerate(names))
    curve = tuple(round(0.9**i, 4) for i in range(30))
    fields = {
        "source": "model",
        "destination": "small",
        "plan": Plan(verdicts, {"selector": "alds", "metric": "operator", "budget": {"keep": 0.5}}),
        "before": ModelSize(sum(v.before.params for v in verdicts) + 100,
                            sum(v.before.macs for v in verdicts), 5_000_000),
        "after": ModelSize(sum(v.after.params for v in verdicts) + 100,
                           sum(v.after.macs for v in verdicts), 2_700_000),
        "environment": Environment(
            "0.1.0", "2.21.0", "2.0.0", "3.11.2", "Linux x86_64, Some CPU", 2, 2, 0
        ),
        "verification": Verification(
            "small", "model", "made up, batch 4, seed 0", None,
            (OutputAgreement("serving_default", HOSTILE, 0.042, 0.31, 0.998),),
            (), ("serving_default: inputs x have open sizes: 32 was assumed for each",),
        ),
        "latency": (latency(1, 1.5, 1.45), latency(8, 9.0, 5.0)),
        "spectra": tuple(
            SiteSpectrum(v.site, 0, tuple(range(1, 31)), curve, 30, v.choice and 8)
            for v in verdicts
        ),
        "notes": ("a note",),
        "seconds": {"planning": 1.25, "rewriting": 0.5},
        "peak_memory_bytes": 800_000_000,
    }  # fmt: skip
    return Report(**{**fields, **changes})


def make_sweep(**changes) -> Sweep:
    """Ratios 0.05, which failed, 0.3, 0.5 and 0.7: the more kept, the slower and the better."""
    points = [SweepPoint(0.05, None, f"out of reach {HOSTILE}")]
    for ratio, score in ((0.3, 0.91), (0.5, 0.97), (0.7, 0.95)):
        whole = make_report()
        points.append(
            SweepPoint(
                ratio,
                make_report(
                    after=ModelSize(
                        int(ratio * whole.before.params), int(ratio * whole.before.macs), 10**6
                    ),
                    latency=(latency(8, 9.0, 9.0 * (ratio + 0.1)),),
                    scores=Scores(0.975, score),
                ),
            )
        )
    return Sweep("model", "budgets", "macs", tuple(points), **changes)


@pytest.fixture
def report() -> Report:
    return make_report()
