import time

import numpy as np

from benchmarks.timing import Seconds, time_in_turns


def test_calls_alternate_and_the_warm_up_is_left_out():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    timings = time_in_turns(calls, rounds=3, warm_up=1)
    assert order == list("abbaabba")
    assert len(timings.wall["a"]) == len(timings.cpu["b"]) == 3


def test_seconds_that_a_call_tells_stand_for_those_of_the_clock():
    timings = time_in_turns({"peer": lambda: Seconds(7), "own": lambda: time.sleep(0)}, rounds=2)
    np.testing.assert_array_equal(timings.wall["peer"], 7)
    assert timings.speed_up("peer", "own").median > 7


def test_a_number_that_a_call_returns_is_not_taken_for_its_seconds():
    timings = time_in_turns({"loss": lambda: 1e6}, rounds=1)
    assert timings.wall["loss"][0] < 1e6


def test_the_best_form_is_the_one_with_the_smallest_median():
    seconds = {"a slow": Seconds(3), "a fast": Seconds(2), "b": Seconds(1)}
    timings = time_in_turns({name: lambda told=told: told for name, told in seconds.items()}, 2)
    assert timings.best("a") == "a fast"
