"""Predictions are judged by shares of the original's latency."""

import pytest

from tfapprox.serving.latency import Latency, Timing
from tfapprox.serving.model_latency import Prediction, TimedModel
from tfapprox.serving.site_latency import SiteTimingOptions


def latency(original, compressed):
    times = (Timing(time, time, time, time) for time in (original, compressed))
    return Latency(4, *times, 10, 2, "C++", "2.21.0", (1.0, 1.0))


def test_a_prediction_is_the_original_less_what_the_sites_save():
    timed = TimedModel(8_000_000, {}, SiteTimingOptions(batch_size=4, threads=2))
    prediction = timed.prediction(2_000_000)
    assert prediction == Prediction(8.0, 6.0, 4, 2)
    assert Prediction.from_json(prediction.to_json()) == prediction


@pytest.mark.parametrize(("measured", "right"), [(6.0, True), (6.9, True), (5.3, True),
                                                 (7.2, False), (5.1, False)])  # fmt: skip
def test_a_prediction_off_by_more_than_15_percent_is_called_wrong(measured, right):
    said = Prediction(8.0, 6.0, 4, 2).compare(latency(8.0, measured))
    assert ("as predicted" in said) == right
    assert ("off by" in said) != right
    assert "at batch 4" in said and "\n" not in said


def test_a_machine_slower_than_at_planning_does_not_count():
    assert "as predicted" in Prediction(8.0, 6.0, 4, 2).compare(latency(16.0, 12.0))
