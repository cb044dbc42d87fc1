import json

from benchmarks.plots import plot_record
from benchmarks.record import Record, Row, Spread, format_value
from benchmarks.suite import write_pages


def record(rows):
    environment = {"cores": 2, "machine": "a|b", "tensorflow": "2", "numpy": "2", "python": "3"}
    return Record("crs_ops", "Speed.", {"threads": 2}, environment | {"load": 0.1}, tuple(rows))


ROWS = [
    Row({"case": "160@32"}, {"over stock": Spread(2.0, 1.9, 2.1)}, {"ms": 1234.5}),
    Row({"case": "640@8"}, {}, {"note": "out of reach | here"}),
]


def test_the_table_has_every_column_of_any_row():
    lines = record(ROWS).to_markdown().splitlines()
    assert "| case | ms | over stock | note |" in lines
    assert "| 160@32 | 1,234 | 2.00 (1.90 to 2.10) |  |" in lines
    assert "| 640@8 |  |  | out of reach \\| here |" in lines


def test_numbers_have_three_digits():
    assert [format_value(x) for x in (0.123456, 12.3456, 4096, None, float("nan"))] == [
        "0.123", "12.3", "4,096", "", "",
    ]  # fmt: skip


def test_a_spread_is_the_quartiles():
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)


def test_the_page_shows_every_record_with_its_plot(tmp_path):
    record(ROWS).write(tmp_path / "crs_ops.json")
    write_pages(tmp_path)
    page = (tmp_path / "records.md").read_text()
    assert "## crs_ops" in page and "![Sampled products](crs_ops.svg)" in page
    assert "160@32: over stock" in (tmp_path / "crs_ops.svg").read_text()
    assert json.loads((tmp_path / "crs_ops.json").read_text())["rows"][1]["ratios"] == {}


def test_a_record_without_ratios_has_no_plot(tmp_path):
    assert not plot_record(record(ROWS[1:]), tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()
