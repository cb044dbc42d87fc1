"""The settings a folder's results were made with: results of others are not mixed in."""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from tfapprox.errors import UserError


def keep_to_settings(file: pathlib.Path, settings: Mapping[str, Any], remedy: str) -> None:
    """Writes the settings to a file, or compares them with those that it has.

    Args:
      file: JSON; its folder is made where it is missing.
      settings: what results depend on. Only what the file names too is compared.
      remedy: what to do where they differ.

    Raises:
      UserError: naming the first setting that differs.
    """
    wanted = json.loads(json.dumps(settings))
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(wanted, indent=1) + "\n")
        os.replace(fresh, file)
        return
    found = dict(_flat(json.loads(file.read_text())))
    for name, value in _flat(wanted):
        if name in found and found[name] != value:
            raise UserError(
                f"{file.parent} has results of {name}={found[name]}, not of {value}: {remedy}"
            )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
