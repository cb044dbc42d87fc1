"""The stop rule, the table and the plot."""

import dataclasses

import pytest
from matplotlib import pyplot

from tfapprox.training.trade_off import TradeOff, largest_compression, markdown, plot


def row(method, keep, valid, test=0.0, seed=0):
    return TradeOff(method, seed, keep, round(1000 * keep), 10, keep, keep, 1, valid, test)


ROWS = [
    row("dense", 1.0, 0.90, 0.88),
    row("alds", 0.5, 0.899, 0.87),
    row("alds", 0.3, 0.896, 0.80),
    row("alds", 0.2, 0.7, 0.88),
]


def test_the_smallest_model_within_the_drop_is_taken():
    def choose(drop, **options):
        return largest_compression(ROWS[1:], ROWS[0], drop, **options)

    assert choose(0.005) is ROWS[2]
    assert choose(0.002) is ROWS[1]
    assert choose(0.3) is ROWS[3]
    assert choose(0.0, measure="test") is ROWS[3]
    assert choose(-0.1) is None
    # Of a budget of MACs, a smaller model may be one with more parameters.
    thin = dataclasses.replace(ROWS[2], params=2000)
    assert largest_compression([ROWS[1], thin], ROWS[0], 0.005) is thin


def test_the_table_has_means_and_spreads_over_seeds():
    other = [row("dense", 1.0, 0.9, 0.90, seed=1), row("alds", 0.5, 0.9, 0.83, seed=1)]
    lines = markdown([*ROWS[:2], *other]).splitlines()
    assert len(lines) == 4
    assert "| 2 |" in lines[3] and "50.0 %" in lines[3]
    assert "85.00 (2.83)" in lines[3] and "-4.00" in lines[3]
    assert "| 87.00 |" in markdown(ROWS[:2]), "a single seed has no spread"


def test_the_plot_is_drawn(tmp_path):
    plot(ROWS, "digits", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_plot_shows_the_spread_over_seeds_at_a_single_ratio(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    rows = [row("dense", 1.0, 0.9, 0.9), row("dense", 1.0, 0.9, 0.92, seed=1)]
    rows += [row("alds", 0.3, 0.9, test, seed=seed) for seed, test in enumerate((0.8, 0.83, 0.9))]
    rows = [dataclasses.replace(r, macs_ratio=0.6) if r.method == "alds" else r for r in rows]
    plot(rows, "digits", tmp_path / "plot.png")
    axes, other = figures[0].axes
    (bar,) = axes.containers[0].lines[2][0].get_segments()
    assert bar[:, 1] == pytest.approx([80, 90])
    assert {text.get_text() for text in other.get_legend().get_texts()} == {"dense", "alds"}
    assert other.get_xlabel() == "MACs saved, %"
    (beside,) = other.containers[0].lines[2][0].get_segments()
    assert bar[:, 0] == pytest.approx([70, 70]) and beside[:, 0] == pytest.approx([40, 40])
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == pytest.approx((90, 2))
    monkeypatch.undo()
    pyplot.close("all")
