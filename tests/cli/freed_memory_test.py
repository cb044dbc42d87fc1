"""Memory of freed arrays."""

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import sys
import numpy as np
from tfapprox.cli.freed_memory import return_freed_arrays

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

if sys.argv[1] == "returned":
    return_freed_arrays()
np.ones(2**21)  # 16 MiB, freed at once: from here on glibc keeps what is smaller
arrays = [np.ones(2**18) for _ in range(64)]  # 2 MiB each
before = resident()
del arrays[::2]
print(before - resident())
"""


def freed(mode: str) -> float:
    output = subprocess.run(
        [sys.executable, "-c", _PROGRAM, mode], check=True, capture_output=True, text=True
    ).stdout
    return float(output)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_arrays_freed_between_others_leave_the_process():
    assert freed("kept") < 16
    assert freed("returned") > 56  # of 64 MiB
