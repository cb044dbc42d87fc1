"""Latency measured in the test's own process and in few rounds, where a test is of something else.

The program measures in a process of its own, which has to start TensorFlow first.
"""

import dataclasses
import json
import pathlib
import tempfile

import numpy as np

from tfapprox.serving import benchmark
from tfapprox.serving.benchmark import LatencyRequest
from tfapprox.serving.inputs import Inputs
from tfapprox.serving.latency import Latency, TimingOptions

QUICK = TimingOptions(warm_up_rounds=1, min_rounds=5, min_seconds=0.0, max_rounds=5)


def measure_here(request: LatencyRequest, inputs: Inputs) -> tuple[Latency, ...]:
    """Returns what `measure_saved_models` does."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        np.savez(folder / "inputs.npz", **benchmark.storable(inputs))
        body = dataclasses.asdict(dataclasses.replace(request, options=QUICK))
        (folder / "request.json").write_text(json.dumps(body))
        return tuple(benchmark._measure(str(folder)))
