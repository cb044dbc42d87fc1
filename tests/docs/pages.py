"""Reads the code blocks of the documentation's pages and runs them.

A page is run in one namespace and one directory, top to bottom. A block that can't be
run is preceded by a comment `<!-- not run: REASON -->`, which readers do not see.
"""

import dataclasses
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tfapprox.cli.main import execute

ROOT = pathlib.Path(__file__).parents[2]
_FENCE = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
PROGRAMS = ("python", "bash", "shell", "sh", "console")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
      language: "" for output and other text.
      text: what is inside.
      line: of its first line in the page, from 1.
      not_run: the reason given, or "".
    """

    language: str
    text: str
    line: int
    not_run: str = ""

    def commands(self) -> Iterator[list[str]]:
        """Yields the words of each command, comments and line continuations resolved."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def pages() -> list[pathlib.Path]:
    """Returns every page a reader may come to, relative to the project's root."""
    top = [path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"]
    return sorted(path.relative_to(ROOT) for path in (*top, *(ROOT / "docs").rglob("*.md")))


def blocks(page: pathlib.Path) -> list[Block]:
    """Returns the fenced blocks of a page, in their order."""
    text = (ROOT / page).read_text("utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        reason = _NOT_RUN.search(before)
        line = before.count("\n") + 2
        found.append(Block(match[2], match[3], line, reason[1] if reason else ""))
    return found


def run_page(page: pathlib.Path, namespace: dict[str, Any]) -> int:
    """Runs a page's blocks in the current directory; returns how many there were.

    Raises:
      AssertionError: a command ended with another status than 0.
    """
    count = 0
    for block in blocks(page):
        if block.not_run or block.language not in PROGRAMS:
            continue
        count += 1
        if block.language == "python":
            # So that a traceback shows the page's own line.
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, str(page), "exec"), namespace)
        else:
            for words in block.commands():
                _run_command(words, f"{page}:{block.line}")
    return count


def _run_command(words: list[str], where: str) -> None:
    """Runs `tfapprox` in this process, which has TensorFlow loaded, and others as they are."""
    if words[0] == "tfapprox":
        try:
            status = execute(words[1:])
        except SystemExit as stop:  # argparse's way to end
            status = int(stop.code or 0)
    else:
        program = [sys.executable, *words[1:]] if words[0] == "python" else words
        status = subprocess.run(program, check=False).returncode
    assert status == 0, f"{where}: `{shlex.join(words)}` ended with status {status}"
