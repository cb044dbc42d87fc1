"""Interpolated latencies rise with the work, pass through what is measured, trust no noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfapprox.accounting.cost import Cost
from tfapprox.selection.latency_table import (
    RelativeTime,
    add_latency,
    rows_to_measure,
    without_slow_rows,
)
from tfapprox.selection.problem import CandidateTable, Configuration

DENSE_MACS, DENSE_TIME = 1000, 5e6


def table_of(settings):
    """A table whose rows cost 10 MACs a rank."""
    macs = np.array([10 * row["rank"] for row in settings], np.int64)
    return CandidateTable(
        "site",
        [Configuration("svd", row) for row in settings],
        np.linspace(0.9, 0.1, len(settings)),
        {"params": macs, "macs": macs, "bytes": macs},
        Cost(DENSE_MACS, DENSE_MACS, DENSE_MACS),
        1.0,
    )


def ranks(*values, scheme=0):
    return [{"scheme": scheme, "rank": rank} for rank in values]


def test_each_family_is_measured_at_its_ends_and_between():
    table = table_of(ranks(*range(8, 97, 8)) + ranks(8, 16, scheme=3))
    rows = rows_to_measure(table, 4)
    assert rows == [0, 2, 6, 11, 12, 13]


def test_rows_that_save_no_macs_are_not_measured_and_get_the_dense_time():
    table = table_of(ranks(80, 96, 100, 200))
    assert rows_to_measure(table, 5) == [0, 1]
    timed = add_latency(table, DENSE_TIME, {row: RelativeTime(0.5, 0.0) for row in (0, 1)})
    assert list(timed.cost["latency"]) == [2_500_000, 2_500_000, 5_000_000, 5_000_000]


def test_ranks_that_leave_lanes_empty_are_a_family_of_their_own():
    table = table_of(ranks(8, 9, 16, 17, 24, 25))
    slow, fast = RelativeTime(0.9, 0.0), RelativeTime(0.3, 0.0)
    timed = add_latency(table, DENSE_TIME, {0: fast, 4: fast, 1: slow, 5: slow})
    assert list(timed.cost["latency"] / DENSE_TIME) == [0.3, 0.9, 0.3, 0.9, 0.3, 0.9]


def test_measured_rows_keep_their_time_and_those_between_lie_on_the_line():
    table = table_of(ranks(8, 16, 24, 32))
    timed = add_latency(table, DENSE_TIME, {0: RelativeTime(0.2, 0.0), 3: RelativeTime(0.8, 0.0)})
    assert list(timed.cost["latency"]) == [1_000_000, 2_000_000, 3_000_000, 4_000_000]
    assert timed.dense.latency == 5_000_000


@given(
    ratios=st.lists(st.floats(0.05, 2.0), min_size=2, max_size=6),
    noise=st.floats(0.0, 0.2),
)
def test_more_work_is_never_faster_and_nothing_within_the_noise_counts_as_faster(ratios, noise):
    sizes = np.linspace(8, 96, 12).astype(int)
    table = table_of(ranks(*(8 * (sizes // 8))))
    rows = np.linspace(0, len(sizes) - 1, len(ratios)).astype(int)
    measured = {int(r): RelativeTime(x, noise) for r, x in zip(rows, ratios, strict=True)}
    timed = add_latency(table, DENSE_TIME, measured)
    latency = timed.cost["latency"]
    assert np.all(np.diff(latency) >= 0)
    faster = latency < timed.dense.latency
    assert np.all(latency[faster] <= (1 - noise) * DENSE_TIME + 1)
    assert len(without_slow_rows(timed)) == faster.sum()


def test_one_slow_outlier_does_not_hide_what_is_faster_at_more_work():
    table = table_of(ranks(8, 16, 24, 32))
    times = [0.3, 0.9, 0.3, 0.5]
    timed = add_latency(table, 1e6, {i: RelativeTime(t, 0.0) for i, t in enumerate(times)})
    assert list(timed.cost["latency"] / 1e6) == pytest.approx([0.3, 0.5667, 0.5667, 0.5667], 1e-3)
