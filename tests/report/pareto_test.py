"""Tests of the Pareto plots' geometry."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfapprox.report.pareto import BOTTOM, LEFT, RIGHT, TOP, Axis, Sample, efficient, plot_pareto

COST = Axis("MACs kept", lambda value: f"{value:g}")
WORTH = Axis("Accuracy", lambda value: f"{value:g}", high_is_good=True, from_zero=False)
numbers = st.floats(0.0, 10.0).map(lambda value: round(value, 1))
clouds = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12)


def samples_of(cloud):
    return [Sample(str(i), x, y) for i, (x, y) in enumerate(cloud)]


def test_the_front_holds_what_nothing_beats():
    cloud = samples_of([(0.2, 0.9), (0.3, 0.95), (0.4, 0.93), (0.5, 0.95), (1.0, 0.99)])
    assert [sample.x for sample in efficient(cloud, COST, WORTH)] == [0.2, 0.3, 1.0]
    both_low = Axis("Output error", str)
    assert [sample.y for sample in efficient(cloud, COST, both_low)] == [0.9]


@given(clouds)
def test_every_sample_off_the_front_is_beaten_by_one_on_it(cloud):
    samples = samples_of(cloud)
    front = efficient(samples, COST, WORTH)
    for sample in samples:
        others = [f for f in front if (f.x, f.y) != (sample.x, sample.y)]
        beaten = any(f.x <= sample.x and f.y >= sample.y for f in others)
        assert (sample in front) != beaten


@given(clouds)
def test_points_lie_inside_in_the_order_of_their_values(cloud):
    plot = plot_pareto(samples_of(cloud), COST, WORTH)
    for (sample, point), (other, beside) in itertools.combinations(
        zip(samples_of(cloud), plot.points, strict=True), 2
    ):
        assert (sample.x <= other.x) == (point.x <= beside.x) or abs(sample.x - other.x) < 0.2
        assert (sample.y <= other.y) == (point.y >= beside.y) or abs(sample.y - other.y) < 0.2
    assert all(LEFT <= point.x <= RIGHT and TOP <= point.y <= BOTTOM for point in plot.points)


@given(clouds)
def test_ticks_are_even_and_enclose_all(cloud):
    plot = plot_pareto(samples_of(cloud), COST, WORTH)
    for ticks, start, end in ((plot.x_ticks, LEFT, RIGHT), (plot.y_ticks, BOTTOM, TOP)):
        places = [tick.at for tick in ticks]
        assert (places[0], places[-1]) == (start, end)
        assert 2 <= len(ticks) <= 10
        np.testing.assert_allclose(np.diff(places), (end - start) / (len(ticks) - 1), atol=0.2)


def test_the_scale_is_linear():
    plot = plot_pareto([Sample("a", 0.25, 1), Sample("b", 1.0, 2)], COST, WORTH)
    assert plot.x_ticks[0].text == "0" and plot.x_ticks[-1].text == "1"
    assert plot.points[0].x == pytest.approx(LEFT + 0.25 * (RIGHT - LEFT), abs=0.1)
    assert plot.front == "M" + "L".join(f"{p.x:g},{p.y:g}" for p in plot.points)


def test_labels_of_neighbours_do_not_cover_each_other():
    plot = plot_pareto([Sample("a", 0.5, 1.0), Sample("b", 0.51, 1.0)], COST, WORTH)
    first, second = plot.points
    assert first.label_y < first.y < second.label_y


def test_the_title_keeps_abbreviations():
    assert plot_pareto([Sample("a", 1, 1)], COST, WORTH).title == "Accuracy against MACs kept"
    time = Axis("Time kept at batch 8", str)
    title = plot_pareto([Sample("a", 1, 1)], time, WORTH).title
    assert re.fullmatch("Accuracy against time kept at batch 8", title)
