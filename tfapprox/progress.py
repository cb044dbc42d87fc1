"""How work tells of its steps."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told of every step as (phase, steps done, steps in all)."""


def no_progress(phase: str, done: int, total: int) -> None:
    """Ignores progress: the default of every function that reports it."""
