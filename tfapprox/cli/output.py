"""Where results go: one JSON document on standard output, or files the user named."""

import json
import pathlib
import sys
from typing import Any

from tfapprox.errors import UserError


def print_json(body: Any) -> None:
    """Prints one JSON document; numbers that JSON lacks (NaN, infinity) become null."""
    json.dump(_finite(body), sys.stdout, indent=1, allow_nan=False)
    print()


def _finite(body: Any) -> Any:
    if isinstance(body, dict):
        return {key: _finite(value) for key, value in body.items()}
    if isinstance(body, list | tuple):
        return [_finite(value) for value in body]
    if isinstance(body, float) and body - body != 0:
        return None
    return body


def check_folder(flag: str, path: str | None) -> None:
    """Refuses, before any work, a file whose directory is not there.

    Raises:
      UserError: naming the flag.
    """
    if path is None:
        return
    parent = pathlib.Path(path).absolute().parent
    if not parent.is_dir():
        raise UserError(f"--{flag} {path}: there is no directory {parent}")
    if pathlib.Path(path).is_dir():
        raise UserError(f"--{flag} {path} is a directory; name a file")


def read_text(flag: str, path: str) -> str:
    """Returns the text of a file the user named.

    Raises:
      UserError: it can't be read, or is no text.
    """
    try:
        return pathlib.Path(path).read_text()
    except OSError as error:
        raise UserError(f"--{flag} {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--{flag} {path} is no text file") from error
