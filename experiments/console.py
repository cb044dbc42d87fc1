"""Where experiments print their tables."""

from rich.console import Console

_NO_TERMINAL_WIDTH = 160


def wide_console() -> Console:
    """Returns the terminal, or for a pipe or file one so wide that no header is cut.

    Rich takes 80 columns where there is no terminal to ask.
    """
    console = Console()
    if console.is_terminal:
        return console
    return Console(width=max(console.width, _NO_TERMINAL_WIDTH))
