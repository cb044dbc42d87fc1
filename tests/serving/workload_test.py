"""Workloads are equal exactly when the machine's work is; forms survive JSON."""

import json

import numpy as np
import pytest

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.serving.workload import ChainForm, Workload, input_shape, workloads

KERNEL = np.zeros((3, 3, 8, 4), np.float32)
SAME = Geometry((2, 1), (1, 2), "SAME", (7, 5))
EXPLICIT = Geometry((1, 1), (1, 1), ((1, 0), (2, 3)), (7, 5))
CHAIN = ChainForm.of(
    Factorization(
        (
            Stage(np.zeros((1, 3, 4, 6), np.float32), 2, (False, True), np.arange(8)[::-1]),
            Stage(np.zeros((3, 1, 6, 4), np.float32), 1, (True, False)),
        ),
        np.array([1, 0, 2, 3]),
    )
)


@pytest.mark.parametrize("geometry", [SAME, EXPLICIT, None])
def test_a_workload_and_its_key_survive_json(geometry):
    workload = Workload((3, 3, 8, 4), "float32", geometry, 2)
    again = Workload.from_json(json.loads(json.dumps(workload.to_json())))
    assert again == workload and again.key == workload.key


def test_a_chain_survives_json_and_is_filled_in_its_form():
    again = ChainForm.from_json(json.loads(json.dumps(CHAIN.to_json())))
    assert again == CHAIN and again.key == CHAIN.key
    filled = again.fill("float32", np.random.default_rng(0))
    assert ChainForm.of(filled) == CHAIN
    assert filled.reconstruct().shape == KERNEL.shape


def test_uses_of_one_geometry_count_together_and_the_name_does_not_matter():
    first = Site("a", "conv2d", KERNEL, (SAME, SAME, EXPLICIT))
    second = Site("b", "conv2d", KERNEL + 1, (EXPLICIT,))
    counts = workloads(first, 2)
    assert sorted(counts.values()) == [1, 2]
    assert set(workloads(second, 2)) < set(counts)
    assert not set(workloads(second, 3)) & set(counts)


def test_a_product_runs_on_all_positions_at_once_and_as_often_as_its_loop():
    kernel = np.zeros((1, 1, 8, 4), np.float32)
    ((workload, times),) = workloads(
        Site("a", "dense", kernel, (Geometry(input_size=(3, 10)),)), 4
    ).items()
    assert (input_shape(workload), times) == ((40, 8), 3)


def test_a_convolution_takes_images():
    (workload,) = workloads(Site("a", "conv2d", KERNEL, (SAME,)), 4)
    assert input_shape(workload) == (4, 7, 5, 8)
