"""JSON is valid whatever the numbers; named files are checked before any work."""

import json

import pytest

from tfapprox.cli.output import check_folder, print_json, read_text
from tfapprox.errors import UserError


def test_numbers_that_json_lacks_become_null(capsys):
    print_json({"a": [float("nan"), 1.5], "b": (float("inf"),), "c": "x"})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": [None], "c": "x"}


def test_file_in_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--report .*there is no directory"):
        check_folder("report", str(tmp_path / "missing" / "page.html"))
    with pytest.raises(UserError, match="is a directory"):
        check_folder("report", str(tmp_path))
    check_folder("report", str(tmp_path / "page.html"))
    check_folder("report", None)


def test_unreadable_text_is_refused(tmp_path):
    (tmp_path / "plan").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match="no text file"):
        read_text("plan", str(tmp_path / "plan"))
    with pytest.raises(UserError, match="No such file"):
        read_text("plan", str(tmp_path / "none"))
