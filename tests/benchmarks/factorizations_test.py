import numpy as np
import pytest

from benchmarks.peers.factorizations import _chain, _cheaper
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site

GEOMETRY = Geometry((1, 1), (1, 1), "SAME", (6, 6))


def site(shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Site("conv", "conv2d", kernel, (GEOMETRY,))


def test_factors_of_tucker_2_become_three_stages_of_the_same_kernel():
    rng, conv = np.random.default_rng(1), site((3, 3, 6, 8))
    factors = {"core": rng.normal(size=(3, 3, 2, 4)), "in": rng.normal(size=(6, 2))}
    factors["out"] = rng.normal(size=(8, 4))
    composed = np.einsum("hwrs,ir,os->hwio", factors["core"], factors["in"], factors["out"])
    built = _chain("tucker2", conv, factors)
    np.testing.assert_allclose(built.reconstruct(), composed, rtol=1e-4, atol=1e-4)


def test_factors_of_cp_become_four_stages_of_the_same_kernel():
    rng, conv = np.random.default_rng(1), site((3, 5, 6, 8))
    sizes = {"height": 3, "width": 5, "in": 6, "out": 8}
    factors = {name: rng.normal(size=(size, 4)) for name, size in sizes.items()}
    composed = np.einsum("hr,wr,ir,or->hwio", *(factors[name] for name in sizes))
    built = _chain("cp", conv, factors)
    assert len(built.stages) == 4
    np.testing.assert_allclose(built.reconstruct(), composed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["tucker2", "cp"])
def test_a_layer_that_would_not_get_cheaper_stays_dense(method):
    conv = site((3, 3, 6, 8))
    assert _cheaper(method, conv, 1.0) == (None, conv.cost.macs)
    ranks, macs = _cheaper(method, conv, 0.05)
    assert ranks is not None and macs < conv.cost.macs
