"""Progress bars on standard error, for a person who waits at a terminal."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressBars:
    """A bar for each phase of the work; nothing where standard error is no terminal.

    Call it as the library calls `Progress`: `bars("planning", 3, 20)`. Bars vanish
    when the work is done.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

            console = Console(stderr=True)
            columns = [SpinnerColumn(), *Progress.get_default_columns()[:2], TimeElapsedColumn()]
            self._bars = Progress(*columns, console=console, transient=True)
            self._bars.start()
            self("loading TensorFlow", 0, 0)
        return self

    def __call__(self, phase: str, done: int, total: int) -> None:
        if self._bars is None:
            return
        if phase not in self._tasks:
            self._finish(self._bars)
            self._tasks[phase] = self._bars.add_task(phase)
        self._bars.update(self._tasks[phase], completed=done, total=total or None)

    def _finish(self, bars: "Progress") -> None:
        """Fills the bars of earlier phases: a new phase means they are over."""
        for task in self._tasks.values():
            total = bars.tasks[task].total or 1
            bars.update(task, completed=total, total=total)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
