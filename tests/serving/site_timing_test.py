"""What is timed is what would run: the laid out chain computes what its stages say."""

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.geometry import Geometry
from tfapprox.serving.latency import TimingOptions
from tfapprox.serving.site_timing import chain_graph, time_chains, time_shares
from tfapprox.serving.workload import ChainForm, Workload, input_shape

QUICK = TimingOptions(warm_up_rounds=1, min_rounds=2, min_seconds=0, max_rounds=2)


def run(graph, x, kernels):
    feeds = {"x:0": x, **{f"kernel{i}:0": kernel for i, kernel in enumerate(kernels)}}
    with tf.Graph().as_default() as scope, tf.compat.v1.Session() as session:
        tf.import_graph_def(graph, name="")
        names = {scope.get_tensor_by_name(name): value for name, value in feeds.items()}
        return session.run("site:0", names)


def stage(rng, *shape, groups=1, axes=(True, True)):
    return Stage(rng.standard_normal(shape).astype(np.float32), groups, axes)


@pytest.mark.parametrize("padding", ["SAME", ((1, 0), (0, 2))])
def test_a_chain_of_convolutions_is_laid_out_as_its_composed_kernel_says(padding):
    rng = np.random.default_rng(0)
    geometry = Geometry((2, 1), (1, 1), padding, (7, 5))
    workload = Workload((3, 3, 8, 4), "float32", geometry, 2)
    chain = Factorization(
        (
            stage(rng, 1, 3, 4, 6, groups=2, axes=(False, True)),
            stage(rng, 3, 1, 6, 4, axes=(True, False)),
        )
    )
    x = rng.standard_normal(input_shape(workload)).astype(np.float32)
    found = run(chain_graph(workload, chain), x, [s.kernel for s in chain.stages])
    pads = padding if isinstance(padding, str) else [[0, 0], *map(list, padding), [0, 0]]
    want = tf.nn.conv2d(x, chain.reconstruct(), [1, 2, 1, 1], pads)
    assert found.shape == want.shape
    assert np.linalg.norm(found - want) < 1e-5 * np.linalg.norm(want)


def test_a_chain_of_products_is_laid_out_as_its_composed_kernel_says():
    rng = np.random.default_rng(0)
    workload = Workload((1, 1, 8, 4), "float32", None, 6)
    chain = Factorization(
        (stage(rng, 1, 1, 4, 6, groups=2), stage(rng, 1, 1, 6, 4, axes=(False, False)))
    )
    x = rng.standard_normal((6, 8)).astype(np.float32)
    found = run(chain_graph(workload, chain), x, [s.kernel[0, 0] for s in chain.stages])
    want = x @ chain.reconstruct()[0, 0]
    assert np.linalg.norm(found - want) < 1e-5 * np.linalg.norm(want)


def test_every_chain_gets_a_ratio_and_noise_and_every_operation_its_share():
    rng = np.random.default_rng(0)
    workload = Workload((1, 1, 8, 8), "float32", None, 4)
    chain = ChainForm.of(
        Factorization((stage(rng, 1, 1, 8, 2), stage(rng, 1, 1, 2, 8, axes=(False, False))))
    )
    times = time_chains(workload, [chain] * 9, QUICK, threads=1)
    assert len(times) == 9 and all(ratio > 0 and noise >= 0 for ratio, noise in times)
    shares = time_shares(lambda: None, [workload, workload], QUICK, threads=1)
    assert shares["model"] > 0 and len(shares["dense"]) == 2 and min(shares["dense"]) > 0
