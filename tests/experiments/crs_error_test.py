import numpy as np
import pytest

from experiments.crs_error import average_errors, plot


@pytest.fixture(scope="module")
def curves():
    ratios = (0.2, 0.5, 0.9)
    return {mean: average_errors(mean, 1.0, 40, 20, 0, ratios) for mean in (0.0, 1.0)}


def test_plain_sums_win_for_zero_means_and_scaled_ones_otherwise(curves):
    for i in range(3):
        assert curves[0.0]["uniform"][i] < curves[0.0]["uniform, scaled"][i]
        assert curves[1.0]["uniform"][i] > curves[1.0]["uniform, scaled"][i]


def test_draws_without_replacement_beat_draws_with(curves):
    for errors in curves.values():
        assert np.all(
            np.array(errors["uniform, scaled"]) < np.array(errors["uniform_replacement, scaled"])
        )


def test_norm_proportional_sampling_stays_below_the_bound(curves):
    for errors in curves.values():
        # The bound is nearly met for zero means; averages over 20 draws spread by 1 %.
        bound = 1.05 * np.array(errors["bound"])
        assert np.all(np.array(errors["nps_replacement, scaled"]) < bound)


def test_curves_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.crs_error.RATIOS", (0.5, 1.0))
    plot("title", {"topk": [0.2, 0.0], "bound": [0.3, 0.1]}, tmp_path / "x.svg")
    assert "<svg" in (tmp_path / "x.svg").read_text()
