"""The state of a training in one file that is either there, whole, or not there."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfapprox.errors import UserError

_RECORD, _EXTRA = "record", "extra-"


def save_snapshot(
    path: pathlib.Path,
    model: Any,
    record: dict[str, Any],
    extra: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes a compiled model's weights, seeds and optimizer, and a record, to `path`.

    A crash at any moment leaves the former file or the new one.

    Args:
      record: anything that JSON holds.
      extra: arrays to keep beside it, by name.
    """
    arrays: dict[str, Any] = {f"{i:05d}": np.asarray(v) for i, v in enumerate(_state(model))}
    arrays |= {f"{_EXTRA}{name}": array for name, array in (extra or {}).items()}
    arrays[_RECORD] = np.array(json.dumps(record))
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.partial")
    with staging.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)


def read_record(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns a snapshot's record, or None where there is no snapshot."""
    if not path.exists():
        return None
    with np.load(path) as content:
        return json.loads(str(content[_RECORD]))


def read_extra(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays beside a snapshot's record."""
    with np.load(path) as content:
        names = [name for name in content.files if name.startswith(_EXTRA)]
        return {name.removeprefix(_EXTRA): content[name] for name in names}


def restore_snapshot(path: pathlib.Path, model: Any) -> None:
    """Fills a compiled model of the same structure.

    Raises:
      UserError: the snapshot is of another model or optimizer.
    """
    state = _state(model)
    with np.load(path) as content:
        arrays = [content[name] for name in sorted(content.files) if name.isdigit()]
    if [array.shape for array in arrays] != [tuple(v.shape) for v in state]:
        raise UserError(
            f"{path} holds the state of another model or optimizer: remove it to start afresh"
        )
    for variable, array in zip(state, arrays, strict=True):
        variable.assign(array)


def _state(model: Any) -> list[Any]:
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]
