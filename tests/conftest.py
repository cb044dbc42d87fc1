"""Settings of the whole suite: what is drawn is drawn again; TensorFlow keeps quiet."""

import os
import random

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

settings.register_profile(
    "default", derandomize=True, deadline=None, database=None, max_examples=25
)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


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
