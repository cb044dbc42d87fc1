"""Tests of the page and the table that compare budgets."""

import dataclasses
import json

from rich.console import Console

from tests.report.conftest import HOSTILE, make_sweep
from tests.report.page_test import Outline
from tfapprox.report.sweep import Sweep
from tfapprox.report.sweep_page import render_sweep_page, write_sweep_page
from tfapprox.report.sweep_table import original_row, sweep_table
from tfapprox.report.text import print_sweep


def without_scores(sweep: Sweep) -> Sweep:
    points = tuple(
        dataclasses.replace(p, report=p.report and dataclasses.replace(p.report, scores=None))
        for p in sweep.points
    )
    return dataclasses.replace(sweep, points=points)


def test_everything_measured_is_a_column():
    columns, cells = sweep_table(make_sweep())
    assert columns == [
        *("MACs", "Parameters", "On disk", "Speed, batch 8", "Accuracy", "Output error"),
        "Sites replaced",
    ]
    assert set(cells) == {0.3, 0.5, 0.7}
    texts = [text for text, _ in cells[0.5]]
    assert texts[3:5] == ["1.67x", "97.00 %"]
    assert "Accuracy" not in sweep_table(without_scores(make_sweep()))[0]


def test_the_first_row_is_the_original_in_its_own_numbers():
    sweep = make_sweep()
    columns, _ = sweep_table(sweep)
    row = dict(zip(columns, original_row(sweep), strict=True))
    assert row["MACs"] == ("60M", 1) and row["On disk"] == ("5 MB", 1)
    assert row["Speed, batch 8"] == ("9 ms", 1)
    assert row["Accuracy"] == ("97.50 %", 0.975)
    assert row["Sites replaced"] == ("0 of 3", 0)
    words = "".join("".join(Outline(render_sweep_page(sweep)).words).split())
    assert "Sitesreplacedoriginal60M" in words
    bare = without_scores(sweep)
    assert len(original_row(bare)) == len(sweep_table(bare)[0])


def test_the_page_is_well_formed_and_escapes_names():
    page = render_sweep_page(make_sweep())
    outline = Outline(page)
    assert "img" not in outline.tags
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    assert f"out of reach {HOSTILE}" in "".join(outline.words)
    ids = [value for name, value in outline.attributes if name == "id"]
    assert ids == ["keep_0.3", "keep_0.5", "keep_0.7"]
    links = [value for name, value in outline.attributes if name == "href"]
    assert links == ["data:,", *(f"#{name}" for name in ids)]


def test_summary_names_the_least_budget_that_holds_the_accuracy():
    words = "".join(Outline(render_sweep_page(make_sweep())).words)
    assert "Least MACs within a point of accuracy50.0 %keep 0.5: 97.50 % → 97.00 %" in words
    assert "Budgets met3 of 4" in words
    assert "2.50xkeep 0.3, batch 8" in words


def test_plots_show_worth_against_macs_and_time():
    words = "".join(Outline(render_sweep_page(make_sweep())).words)
    assert (
        "Accuracy against MACs kept" in words and "Accuracy against time kept at batch 8" in words
    )
    words = "".join(Outline(render_sweep_page(without_scores(make_sweep()))).words)
    assert "Output error against MACs kept" in words
    page = render_sweep_page(make_sweep())
    assert page.count('<circle class="original"') == 2
    assert page.count('<circle class="beaten"') == 2  # keep 0.7, in both


def test_page_and_json_of_a_sweep_can_be_written(tmp_path):
    write_sweep_page(make_sweep(), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == render_sweep_page(make_sweep())
    body = json.loads(json.dumps(make_sweep().to_json()))
    assert [point["ratio"] for point in body["points"]] == [0.05, 0.3, 0.5, 0.7]
    assert body["points"][0]["report"] is None
    assert body["points"][2]["report"]["scores"]["after"] == 0.97


def test_the_terminal_shows_a_line_for_each_budget_and_each_failure():
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    with console.file:
        print_sweep(make_sweep(), console)
    text = console.export_text()
    assert "keep_0.5" in text and "97.00 %" in text
    (line,) = (line for line in text.splitlines() if line.startswith("original"))
    assert "60M" in line and "9 ms" in line and "97.50 %" in line
    assert f"✗ keep_0.05: out of reach {HOSTILE}" in text
