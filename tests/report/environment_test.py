"""Tests of what is said of the machine."""

import numpy as np

from tfapprox.report.environment import collect_environment, peak_memory_bytes


def test_the_environment_names_versions_and_settings():
    here = collect_environment(threads=3, seed=7)
    assert (here.threads, here.seed, here.numpy) == (3, 7, np.__version__)
    assert here.tensorflow[0] == "2"
    assert here.cores >= 1


def test_peak_memory_is_in_bytes():
    block = np.ones(2**23)  # 64 MiB, touched
    assert peak_memory_bytes() > block.nbytes
    assert peak_memory_bytes() < 2**40
