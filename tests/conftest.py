"""Settings of the whole suite: what is drawn is drawn again; TensorFlow keeps quiet."""

import collections
import gc
import os
import pathlib
import random

import numpy as np
import pytest
from hypothesis import settings

ROOT = pathlib.Path(__file__).parent

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

settings.register_profile(
    "default", derandomize=True, deadline=None, database=None, max_examples=25
)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


# With a process for each core, whatever starts last is waited for: these files take longest.
LONG = (
    "training/multi_worker_test.py",
    "training/kill_test.py",
    "docs/notebooks_test.py",
    "docs/pages_test.py",
    "combining/pipeline_test.py",
    "experiments/resuming_test.py",
    "experiments/cifar_csg_test.py",
    "experiments/cifar_tucker_test.py",
    "experiments/combine_mnist_test.py",
    "serving/elsewhere_test.py",
    "docs/site_test.py",
    "house/packaging_test.py",
)


def pytest_configure(config):
    """Leaves the order of files to the hook below; pytest-xdist would go by numbers of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Long files come first, then those of many tests."""
    sizes = collections.Counter(item.path for item in items)
    ranks = {ROOT / name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: (ranks.get(item.path, len(LONG)), -sizes[item.path]))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Spares the garbage collector what is loaded by then and stays: TensorFlow above all."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """No test depends on those before it: Keras draws the seeds of initial weights here."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def measured_here(monkeypatch):
    """Compressions measure latency in this process, quickly: for tests of everything else."""
    from tests.quick_timing import measure_here

    monkeypatch.setattr("tfapprox.compression.timing.measure_saved_models", measure_here)
