"""Tests of numbers as people read them."""

from tfapprox.report import numbers


def test_counts_have_three_digits_and_a_step():
    shown = {0: "0", 999: "999", 1000: "1k", 25_600_000: "25.6M", 999_999: "1M", 4e9: "4G"}
    assert {value: numbers.count(value) for value in shown} == shown


def test_sizes_are_decimal():
    assert numbers.size(12) == "12 B"
    assert numbers.size(2_700_000) == "2.7 MB"


def test_shares_and_errors_know_when_there_is_nothing_to_say():
    assert numbers.share(1, 4) == "25.0 %"
    assert numbers.share(0, 0) == "-"
    assert numbers.error(None) == "-"
    assert numbers.error(0.0) == "0"
    assert numbers.error(0.1234) == "0.123"
    assert numbers.error(1.5e-7) == "1.5e-07"


def test_milliseconds_keep_three_digits():
    assert [numbers.milliseconds(x) for x in (0.01234, 5, 1234.5)] == [
        "0.0123 ms",
        "5 ms",
        "1234 ms",
    ]
