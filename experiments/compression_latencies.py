"""Milliseconds of a call of every model of the compression table, all called in turns."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.compression_subjects import Subject
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.inputs import Inputs
from tfapprox.serving.latency import TimingOptions, time_interleaved

_TIMING = TimingOptions(1, 5, 20.0, 200)


def measure_latencies(
    subject: Subject,
    paths: Mapping[str, pathlib.Path],
    batch_sizes: tuple[int, ...],
    file: pathlib.Path,
) -> dict[str, Any]:
    """Returns the median milliseconds of every model, by batch size.

    All are called in turns, through the C++ loader, so that whatever else the machine
    does meets them alike; so a model that is new has all of them measured again.

    Args:
      subject: whose inputs they take.
      paths: name -> SavedModel; none for what was measured before.
      batch_sizes: examples of a call.
      file: keeps them.
    """
    if file.exists():
        known = json.loads(file.read_text())
        if known.keys() >= paths.keys():
            return known
    if not paths:
        return {}
    sessions = {name: CcSession(str(path)) for name, path in paths.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in paths}
    for size in batch_sizes:
        rows = {k: v[np.arange(size) % len(v)] for k, v in subject.held_back.items()}
        calls = [_call(session, rows, subject.signature) for session in sessions.values()]
        seconds = time_interleaved(calls, _TIMING)
        for name, median in zip(paths, np.median(seconds, 0), strict=True):
            found[name][str(size)] = 1e3 * float(median)
    for session in sessions.values():
        session.close()
    file.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _call(session: CcSession, inputs: Inputs, signature: str) -> Callable[[], object]:
    return lambda: session.run(inputs, signature)
