"""Holds back what TensorFlow says about itself while it starts."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

_STDERR = 2


@contextlib.contextmanager
def hushed_tensorflow() -> Iterator[None]:
    """Lets through what Python writes to standard error, and nothing that C++ does.

    TF_CPP_MIN_LOG_LEVEL does not reach the lines that TensorFlow's libraries log
    while they are loaded, so C++ gets another file descriptor.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), _native_stderr_closed():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Points file descriptor 2 nowhere, and Python's sys.stderr to where it pointed."""
    python_stderr = sys.stderr
    sys.stderr.flush()
    real = os.dup(_STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    os.close(nowhere)
    try:
        if _writes_to(python_stderr, _STDERR):
            sys.stderr = open(os.dup(real), "w", buffering=1, encoding=python_stderr.encoding)
        yield
    finally:
        if sys.stderr is not python_stderr:
            sys.stderr.close()
        sys.stderr = python_stderr
        os.dup2(real, _STDERR)
        os.close(real)


def _writes_to(stream: object, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
