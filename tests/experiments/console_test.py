"""Tables of experiments in a pipe keep their headers whole."""

from rich.table import Table

from experiments.console import wide_console
from tfapprox.combining.result import TITLES


def test_headers_are_not_cut_where_there_is_no_terminal(capsys):
    table = Table(*TITLES)
    table.add_row(*["12345.67"] * len(TITLES))
    wide_console().print(table)
    header = capsys.readouterr().out.splitlines()[1]
    assert [cell.strip() for cell in header.strip("┃ ").split("┃")] == list(TITLES)
