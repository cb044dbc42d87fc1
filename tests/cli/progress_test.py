"""Bars appear at a terminal, and nowhere else."""

import io
import sys

from tfapprox.cli.progress import ProgressBars


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nothing_is_written_where_there_is_no_terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBars() as bars:
        bars("planning", 1, 2)
    assert stream.getvalue() == ""


def test_each_phase_gets_a_bar_and_earlier_ones_fill_up(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBars() as bars:
        bars("planning", 1, 2)
        bars("writing", 0, 0)
        loading, planning, writing = bars._bars.tasks
    assert loading.finished and planning.finished and not writing.finished
    assert "planning" in stream.getvalue()
