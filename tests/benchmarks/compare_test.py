import pytest

from benchmarks.compare import compare
from benchmarks.record import Record, Row, Spread


def record(median, low, high, name="speed-up", benchmark="crs_ops"):
    row = Row({"case": "160@32", "kept": 0.5}, {name: Spread(median, low, high)}, {"ms": 1.5})
    return Record(benchmark, "Speed.", {}, {"cores": 2}, (row,))


@pytest.mark.parametrize(
    "new, verdict",
    [
        ((1.5, 1.4, 1.6), "fell"),
        ((1.9, 1.7, 2.1), "same"),  # the quartiles overlap
        ((1.88, 1.87, 1.89), "same"),  # clear, but within the tolerance of 7 %
        ((2.5, 2.4, 2.6), "rose"),
    ],
)
def test_a_ratio_fell_when_it_left_the_noise(new, verdict):
    (change,) = compare(record(2.0, 1.9, 2.1), record(*new), tolerance=0.07)
    assert change.verdict == verdict


def test_ratios_of_one_run_alone_are_gone_or_added():
    changes = compare(record(2, 1, 3, "old"), record(2, 1, 3, "new"))
    assert [(c.ratio, c.verdict) for c in changes] == [("old", "gone"), ("new", "added")]


def test_records_of_different_benchmarks_are_refused():
    with pytest.raises(ValueError, match="different benchmarks"):
        compare(record(2, 1, 3), record(2, 1, 3, benchmark="inference"))


def test_a_record_comes_back_from_its_file_as_it_was(tmp_path):
    written = record(2.0, 1.9, 2.1)
    written.write(tmp_path / "new" / "crs_ops.json")
    assert Record.read(tmp_path / "new" / "crs_ops.json") == written


def test_another_file_is_refused_by_its_name(tmp_path):
    (tmp_path / "other.json").write_text('{"rows": 1}')
    with pytest.raises(ValueError, match=r"other\.json"):
        Record.read(tmp_path / "other.json")
