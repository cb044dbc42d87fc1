import types

import pytest

from benchmarks.latency_selector import limit_by_macs
from tfapprox.accounting.cost import Cost
from tfapprox.rewriters.plan import Plan, Verdict


def verdict(name, before, after):
    return Verdict(name, "conv2d", (1, 1, 1, 1), None, "", 0.0, before, after)


def test_time_outside_the_sites_limits_the_speed_up():
    half = verdict("a", Cost(1, 100, 1, 600_000), Cost(1, 50, 1, 350_000))
    same = verdict("b", Cost(1, 10, 1, 200_000), Cost(1, 10, 1, 200_000))
    plan = Plan((half, same), {"latency": {"original": 1.0, "compressed": 0.75}})
    # 0.2 ms outside, 0.2 ms as it was, and half of 0.6 ms.
    assert limit_by_macs(types.SimpleNamespace(plan=plan)) == pytest.approx(1 / 0.7)
