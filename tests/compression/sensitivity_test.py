import numpy as np
import pytest

from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.moments import MomentAccumulator
from tfapprox.compression.sensitivity import SensitivityTrial, trial_fit


def _site(name, seed):
    kernel = np.random.default_rng(seed).standard_normal((1, 1, 20, 20)).astype(np.float32)
    return Site(name, "dense", kernel)


def _moments(site, rows, keeps_inputs=True):
    accumulator = MomentAccumulator(site.kernel, keeps_inputs)
    accumulator.add(rows)
    return accumulator.finish(shrinkage=0.0)


def _rows():
    rng = np.random.default_rng(9)
    return (rng.standard_normal((500, 20)) @ rng.standard_normal((20, 20)) + 2).astype("f4")


@pytest.mark.parametrize("keeps_inputs", [True, False])
def test_the_trial_loses_about_a_third_of_the_output_and_none_of_its_mean(keeps_inputs):
    site, rows = _site("layer", 0), _rows()
    kernel, offset, error = trial_fit(site, _moments(site, rows, keeps_inputs))
    want = rows @ site.kernel[0, 0]
    got = rows @ kernel[0, 0] + offset
    lost = np.linalg.norm(got - want) / np.linalg.norm(want - want.mean(axis=0))
    assert lost == pytest.approx(error, rel=1e-2) and 0.2 < error < 0.4
    assert abs((got - want).mean(axis=0)).max() < 1e-3 * want.std()


def test_a_site_that_feeds_most_of_the_output_is_the_more_sensitive_one():
    sites, rows = [_site("loud", 0), _site("quiet", 1)], _rows()
    trial = SensitivityTrial(sites, {site.name: _moments(site, rows) for site in sites})

    def run():
        total = np.zeros((500, 20))
        for name, scale in (("loud", 1.0), ("quiet", 0.1)):
            kernel, offset = trial.watch(name, name, rows[:, None, None], Geometry())
            total += scale * (rows @ kernel[0, 0] + offset)
        return [total, np.arange(3)]  # the second output is whole numbers, which do not count

    told = []
    found = trial.measure(run, told.append)
    assert told == [0, 1]
    assert found["loud"] == pytest.approx(10 * found["quiet"], rel=0.3)
    kernel, offset = trial.watch("loud", "loud", rows[:, None, None], Geometry())
    assert kernel is sites[0].kernel and not offset.any()
