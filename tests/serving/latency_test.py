"""Tests of interleaved timing; none of them looks at a clock."""

import itertools
import json
from unittest import mock

import numpy as np
import pytest

from tfapprox.serving.latency import Latency, Timing, TimingOptions, time_interleaved


def test_models_take_turns_after_the_warm_up():
    calls = []
    runnables = [lambda: calls.append("a"), lambda: calls.append("b")]
    options = TimingOptions(warm_up_rounds=1, min_rounds=3, min_seconds=0)
    seconds = time_interleaved(runnables, options)
    assert seconds.shape == (3, 2)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"


def test_each_call_is_charged_to_the_model_that_ran():
    clock = itertools.accumulate(itertools.cycle([0, 1, 0, 5, 0, 5, 0, 1]))
    options = TimingOptions(warm_up_rounds=0, min_rounds=4, min_seconds=0)
    with mock.patch("time.perf_counter", lambda: float(next(clock))):
        seconds = time_interleaved([lambda: None, lambda: None], options)
    np.testing.assert_array_equal(seconds, [[1, 5]] * 4)


@pytest.mark.parametrize(("min_seconds", "rounds"), [(0, 2), (10, 5), (1000, 8)])
def test_rounds_end_by_time_but_within_their_limits(min_seconds, rounds):
    clock = itertools.count()  # every call takes one second
    options = TimingOptions(0, min_rounds=2, min_seconds=min_seconds, max_rounds=8)
    with mock.patch("time.perf_counter", lambda: float(next(clock))):
        assert len(time_interleaved([lambda: None, lambda: None], options)) == rounds


def test_latency_survives_json_and_compares_medians():
    latency = Latency(
        8, Timing(4.0, 5.0, 3.9, 4.1), Timing(2.0, 9.0, 1.5, 2.5), 20, 1, "C++", "2.21", (0.9, 2.1)
    )
    assert latency.ratio == 2
    assert not latency.is_faster  # slower in more than a quarter of the rounds
    assert Latency.from_json(json.loads(json.dumps(latency.to_json()))) == latency


def test_timing_is_in_milliseconds():
    timing = Timing.of(np.arange(101) / 1000)
    assert (timing.p50, timing.p95, timing.p25, timing.p75) == pytest.approx((50, 95, 25, 75))
