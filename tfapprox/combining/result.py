"""What became of a model step by step: a table, and JSON."""

import dataclasses
import gzip
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfapprox.combining.kernels import KernelState


@dataclasses.dataclass(frozen=True)
class StepResult:
    """The model after one step.

    Attributes:
      name: of the step; "original" before the first.
      folder: holds saved_model/ and model.tflite.
      params: entries of all weights, wrappers' own apart.
      zeros: share of zeros in the kernels.
      distinct: most distinct values in a kernel.
      saved_model_bytes, saved_model_gzip_bytes: of all files, as they are and packed.
      tflite_bytes, tflite_gzip_bytes: the same of the TFLite model.
      score: of the model in memory.
      saved_model_score, tflite_score: of what was read back from disk.
      saved_model_ms, tflite_ms: median latency of a call, all steps measured in turns.
    """

    name: str
    folder: str
    params: int
    zeros: float
    distinct: int
    saved_model_bytes: int
    saved_model_gzip_bytes: int
    tflite_bytes: int
    tflite_gzip_bytes: int
    score: float
    saved_model_score: float
    tflite_score: float
    saved_model_ms: float = float("nan")
    tflite_ms: float = float("nan")


@dataclasses.dataclass(frozen=True)
class CombinedResult:
    """All steps, the original first, and how latency was measured.

    Attributes:
      steps: one for the original and one for each step.
      batch_size: examples a call of the latency.
      settings: of the steps and the tuning.
    """

    steps: tuple[StepResult, ...]
    batch_size: int
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns what `json.dumps` takes."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))


TITLES = (
    "after", "params", "zeros", "values", "SavedModel", "packed", "TFLite", "packed",
    "score", "SavedModel's", "TFLite's", "ms", "TFLite ms",
)  # fmt: skip


def cells(step: StepResult) -> tuple[str, ...]:
    """Returns a row under `TITLES`; sizes in kB (1000 bytes)."""
    sizes = (
        step.saved_model_bytes,
        step.saved_model_gzip_bytes,
        step.tflite_bytes,
        step.tflite_gzip_bytes,
    )
    scores = (step.score, step.saved_model_score, step.tflite_score)
    return (
        step.name,
        f"{step.params:,}",
        f"{step.zeros:.0%}",
        str(step.distinct),
        *(f"{size / 1000:.1f}" for size in sizes),
        *(f"{score:.4f}" for score in scores),
        f"{step.saved_model_ms:.3f}",
        f"{step.tflite_ms:.3f}",
    )


def markdown(steps: Sequence[StepResult]) -> str:
    """Returns the steps as a Markdown table."""
    rows = [TITLES, tuple("---" for _ in TITLES), *(cells(step) for step in steps)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def summary(states: Mapping[str, KernelState]) -> tuple[float, int]:
    """Returns the share of zeros in all kernels, and the most distinct values in one."""
    size = sum(state.size for state in states.values())
    zeros = sum(state.zeros for state in states.values())
    return zeros / max(size, 1), max((state.distinct for state in states.values()), default=0)


def disk_bytes(path: pathlib.Path) -> tuple[int, int]:
    """Returns the bytes of a file, or of all files of a directory, as they are and packed."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    contents = [file.read_bytes() for file in files]
    return sum(map(len, contents)), sum(len(gzip.compress(c, mtime=0)) for c in contents)
