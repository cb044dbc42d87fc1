"""The state of a distillation, in memory and on disk."""

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfapprox.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class DistillationState:
    """Where a run stands.

    Attributes:
      step: steps done.
      values: of the trained variables, by name.
      moments: of the optimizer.
      history: step, loss and error of each time the model was judged.
      best: the best of these; best_values: the variables then.
      stopped: whether the loss ceased to be finite.
    """

    step: int
    values: Mapping[str, np.ndarray]
    moments: Mapping[str, np.ndarray]
    best_values: Mapping[str, np.ndarray]
    best: Mapping[str, float]
    history: tuple[Mapping[str, float], ...] = ()
    stopped: bool = False

    @classmethod
    def fresh(
        cls, values: Mapping[str, np.ndarray], moments: Mapping[str, np.ndarray]
    ) -> "DistillationState":
        return cls(0, values, moments, values, {})


class RunFolder:
    """Keeps the state of runs in a directory, always whole, each in a file of its own."""

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)

    def save(self, identity: Mapping[str, Any], state: DistillationState) -> None:
        """Writes the state in the place of the one before.

        Args:
          identity: what must be the same for the run to go on; JSON.
          state: to keep.
        """
        self._path.mkdir(parents=True, exist_ok=True)
        told = {
            "step": state.step,
            "best": dict(state.best),
            "history": [dict(record) for record in state.history],
            "stopped": state.stopped,
        }
        arrays: dict[str, Any] = {"told": np.frombuffer(json.dumps(told).encode(), np.uint8)}
        for group in ("values", "moments", "best_values"):
            for name, value in getattr(state, group).items():
                arrays[f"{group}:{name}"] = _storable(value)
        partial = self._path / f".distillation-{os.getpid()}.partial"
        with partial.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._file(identity))

    def load(self, identity: Mapping[str, Any], fresh: DistillationState) -> DistillationState:
        """Returns the state that was saved last, or `fresh` where there is none.

        Raises:
          UserError: it can't be read.
        """
        file = self._file(identity)
        if not file.exists():
            return fresh
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            told = json.loads(arrays["told"].tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{file} can't be read: delete it, or name another folder") from error
        groups = {
            group: {
                name: _restored(arrays[f"{group}:{name}"], value)
                for name, value in getattr(fresh, group).items()
            }
            for group in ("values", "moments", "best_values")
        }
        return DistillationState(
            told["step"], best=told["best"], history=tuple(told["history"]),
            stopped=told["stopped"], **groups,
        )  # fmt: skip

    def _file(self, identity: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self._path / f"distillation-{digest[:16]}.npz"


def _storable(value: np.ndarray) -> np.ndarray:
    """Returns bytes in the place of dtypes that .npz files can't hold."""
    return value if value.dtype.isbuiltin == 1 else np.frombuffer(value.tobytes(), np.uint8)


def _restored(stored: np.ndarray, like: np.ndarray) -> np.ndarray:
    if stored.dtype == like.dtype:
        return stored
    return np.frombuffer(stored.tobytes(), like.dtype).reshape(like.shape)
