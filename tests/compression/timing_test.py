"""A model that turns out slower than the original is never the result."""

import numpy as np
import pytest
from tensorflow import keras

from tfapprox import factorizing, planning
from tfapprox.compression import compress_saved_model, steps, timing
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError
from tfapprox.selection.latency_table import RelativeTime, add_latency
from tfapprox.selection.problem import Budget
from tfapprox.serving.latency import Latency, Timing
from tfapprox.serving.model_latency import TimedModel
from tfapprox.serving.site_latency import SiteTimingOptions

CONFIG = CompressionConfig(Budget("latency", max_error=0.9), batch_size=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("source") / "model"
    layers = [keras.layers.Dense(64, name=f"layer{i}") for i in range(4)]
    keras.Sequential([keras.Input((64,)), *layers]).export(path, verbose=False)
    return path


@pytest.fixture
def clock(monkeypatch):
    """Makes up all times; `clock(sites)` is the compressed model's, the original's is 8."""
    state = {"measured": lambda replaced: 4.0, "batch_sizes": [], "replaced": []}

    def measure_sites(sites, tables, build, dense, options, progress, cache):
        half = {row: RelativeTime(0.5, 0.0) for row in range(500)}
        return [
            add_latency(table, 1e6 + number, {k: v for k, v in half.items() if k < len(table)})
            for number, table in enumerate(tables)
        ]

    def measure_models(request, inputs):
        state["batch_sizes"].append(request.batch_sizes)
        replaced = state["replaced"][-1]
        times = 8.0, state["measured"](replaced)
        original, small = (Timing(t, t, t, t) for t in times)
        ratio = times[0] / times[1]
        return tuple(
            Latency(size, original, small, 9, None, "C++", "2", (ratio, ratio))
            for size in request.batch_sizes
        )

    def factorize(inspection, plan, *rest):
        state["replaced"].append(len(plan.choices))
        return factorizing.factorize_plan(inspection, plan, *rest)

    timed = TimedModel(8_000_000, {}, SiteTimingOptions(batch_size=4))
    monkeypatch.setattr(planning, "measure_sites", measure_sites)
    monkeypatch.setattr(timing, "time_saved_model", lambda *args: timed)
    monkeypatch.setattr(timing, "measure_saved_models", measure_models)
    monkeypatch.setattr(steps, "factorize_plan", factorize)
    return state


def test_the_prediction_is_compared_at_the_batch_size_that_counts(source, tmp_path, clock):
    report = compress_saved_model(source, tmp_path / "out", CONFIG, batch_sizes=(1,))
    assert clock["batch_sizes"] == [(1, 4)] and clock["replaced"] == [4]
    assert "off by" in report.notes[-1] and "at batch 4" in report.notes[-1]


def test_slower_with_all_sites_means_fewer_sites(source, tmp_path, clock):
    clock["measured"] = lambda replaced: 9.0 if replaced > 1 else 7.5
    report = compress_saved_model(source, tmp_path / "out", CONFIG)
    assert clock["replaced"] == [4, 2, 1] and report.replaced == 1
    assert "With 4 sites" in report.notes[-3] and "With 2 sites" in report.notes[-2]
    assert "as predicted" in report.notes[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_slower_with_any_site_is_refused_and_nothing_written(source, tmp_path, clock):
    clock["measured"] = lambda replaced: 9.0
    with pytest.raises(UserError, match="keep the original"):
        compress_saved_model(source, tmp_path / "out", CONFIG)
    assert not list(tmp_path.iterdir())


def test_without_latency_in_the_config_a_slower_result_is_the_user_s_choice(
    source, tmp_path, clock
):
    clock["measured"] = lambda replaced: 9.0
    config = CompressionConfig(Budget("macs", max_error=0.9))
    report = compress_saved_model(source, tmp_path / "out", config)
    assert report.replaced == 4 and np.all([x.ratio < 1 for x in report.latency])
