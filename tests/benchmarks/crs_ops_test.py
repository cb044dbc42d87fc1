import numpy as np
import pytest

from benchmarks import crs_ops
from benchmarks.timing import Timings
from tfapprox.sampling.settings import Sampling


@pytest.mark.parametrize(
    "forms, shape", [(crs_ops.dense_forms, (4, 8, 5)), (crs_ops.conv_forms, (2, 4, 8))]
)
def test_all_forms_with_all_pairs_compute_the_same(forms, shape):
    made = forms(shape, {"crs 1.0": Sampling()})
    expected = made["exact"]()
    assert len(made) >= 4
    for name, form in made.items():
        for ours, theirs in zip(form(), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_row_sets_the_best_sampled_form_against_every_baseline():
    wall = {"exact": 8.0, "exact xla": 6.0, "crs 0.5": 3.0, "crs 0.5 xla": 4.0, "torch 0.5": 6.0}
    wall["torch 1.0"] = 9.0
    cpu = {**wall, "exact": 12.0}
    seconds = [{name: np.full(3, x) for name, x in clock.items()} for clock in (wall, cpu)]
    (row,) = crs_ops.summarise({"case": "case"}, Timings(*seconds), [0.5])
    assert row.values["form"] == "graph"
    assert row.ratios["over best exact"].median == 2
    assert row.values["CPU over stock"] == 4
    assert row.ratios["over torch"].median == 2
    assert row.values["torch over exact torch"] == 1.5
