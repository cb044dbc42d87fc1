import pytest

from benchmarks.scaling_out import _row

EXACT = {"reduced_bytes": 4e6, "compute_seconds": 0.010, "bytes_of_steps": [8.2e6, 8.0e6, 8.4e6]}
SAMPLED = {"reduced_bytes": 1e6, "compute_seconds": 0.006, "bytes_of_steps": [2.0e6, 2.2e6, 2.1e6]}


def test_two_workers_send_what_was_measured():
    row = _row("perceptron, half of the rows", SAMPLED, EXACT, 2, 1e9)
    assert row.values["measured, MB a worker"] == pytest.approx(1.05)
    assert row.values["sent by each worker, MB"] == pytest.approx(1.0)
    (ratio,) = row.ratios.values()
    assert ratio.median == pytest.approx(4.0)


def test_a_ring_of_many_sends_twice_the_bytes_less_one_part():
    row = _row("perceptron, half of the rows", SAMPLED, EXACT, 8, 1e9)
    assert row.values["sent by each worker, MB"] == pytest.approx(1.75)
    # (10 ms + 7 MB / GB/s) over (6 ms + 1.75 MB / GB/s)
    assert row.values["exact over this, on paper"] == pytest.approx(17 / 7.75)
    assert not row.ratios
