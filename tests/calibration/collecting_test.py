import numpy as np
import pytest

from tests.reference.calibration import patches
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.collecting import ROWS_PER_CALL, MomentCollector, RowSampler
from tfapprox.calibration.weights import CovarianceWeight, weighted_norm

GEOMETRY = Geometry(strides=(2, 1), padding="SAME", input_size=(6, 6))


def _site(*shape, name="layer"):
    kernel = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return Site(name, "conv2d", kernel, (GEOMETRY,))


def _images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 6, 6, 4)).astype(np.float32)


def test_the_moment_is_that_of_all_patches_of_all_calls():
    site, collector = _site(3, 3, 4, 5), None
    collector = MomentCollector([site])
    batches = [_images(3, seed) for seed in range(4)]
    for batch in batches:
        kernel, offset = collector.watch("layer", "layer#0", batch, GEOMETRY)
        assert kernel is site.kernel and not offset.any()
    moments = collector.moments()["layer"]
    rows = patches(np.concatenate(batches), (3, 3), GEOMETRY.strides, padding="SAME")
    assert moments.rows == len(rows)
    outputs = (rows - rows.mean(axis=0)) @ site.kernel.reshape(36, -1)
    # Shrinkage moves the moment a little, a missing border or call would move it more.
    assert weighted_norm(CovarianceWeight(moments), site.kernel) == pytest.approx(
        np.sqrt(np.square(outputs).sum() / len(rows)), rel=0.05
    )


def test_a_call_with_many_positions_is_sampled_alike_in_every_run():
    site, sampler = _site(1, 1, 4, 5), RowSampler(seed=3)
    images = _images(200)
    rows = sampler.rows(site, "layer#0", images, Geometry())
    assert len(rows) == ROWS_PER_CALL
    all_rows = {row.tobytes() for row in images.reshape(-1, 4)}
    assert {row.tobytes() for row in rows} <= all_rows
    again = sampler.rows(site, "layer#0", images, Geometry())
    assert not np.array_equal(again, rows)
    sampler.start_over()
    np.testing.assert_array_equal(sampler.rows(site, "layer#0", images, Geometry()), rows)


def test_sites_beyond_the_memory_bound_give_their_outputs_moment():
    small, large = _site(1, 1, 4, 5, name="small"), _site(3, 3, 4, 5, name="large")
    collector = MomentCollector([large, small], memory=4 * 4**2 + 4 * 36**2 - 1)
    assert collector.outputs_only == {"large"}
    for name in ("small", "large"):
        collector.watch(name, name, _images(8), GEOMETRY)
    moments = collector.moments()
    assert moments["small"].inputs is not None and moments["large"].inputs is None
    assert moments["large"].outputs.shape == (5, 5) and len(moments["large"].center) == 36


def test_sites_that_were_never_executed_have_no_moments():
    collector = MomentCollector([_site(1, 1, 4, 5)])
    assert collector.moments() == {}


def test_where_no_bias_can_be_corrected_the_mean_is_part_of_the_error():
    site = _site(1, 1, 4, 5)
    norms = []
    for uncentred in ((), ("layer",)):
        collector = MomentCollector([site])
        collector.watch("layer", "layer#0", _images(8) + 10, Geometry())
        moments = collector.moments(uncentred)["layer"]
        norms.append(weighted_norm(CovarianceWeight(moments), site.kernel))
    assert norms[1] > 5 * norms[0]
