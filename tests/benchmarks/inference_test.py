import json
from pathlib import Path

import pytest

from benchmarks import inference
from benchmarks.record import Row, Spread


class Place:
    """Two models that were written, one way that has none, and one that nothing is known of."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name, facts in {
            "alds": {"MAC speed-up": 2.0, "sites": "1 of 1"},
            "latency": {"MAC speed-up": 4.0, "sites": "1 of 1"},
            "uniform": {"note": "out of reach"},
        }.items():
            (folder / f"{name}.json").write_text(json.dumps(facts))
            if "note" not in facts:
                (folder / name).mkdir()

    def model(self, way: str, keep: float) -> Path:
        return self.folder / way

    def facts(self, way: str, keep: float) -> dict:
        file = self.folder / f"{way}.json"
        return json.loads(file.read_text()) if file.exists() else {}


WAYS = [(way, 0.5) for way in ("alds", "latency", "uniform", "never made")]
TIMES = {"wall": [[8.0, 8.0], [4.0, 4.0]], "cpu": [[9.0, 9.0], [3.0, 3.0]]}


def case(threads):
    return {"network": "net", "threads": threads, "batch": 8}


@pytest.mark.parametrize("threads, speed_up", [(2, 2.0), (1, 3.0)])
def test_one_thread_is_judged_by_cpu_time_and_several_by_the_clock(tmp_path, threads, speed_up):
    place = Place(tmp_path)
    (tmp_path / f"measured-8-{threads}.json").write_text(json.dumps({"alds": TIMES}))
    (row,) = inference._measure_case(place, case(threads), WAYS, limits=None)
    assert row.ratios["speed-up"].median == speed_up
    assert row.values["share of it"] == speed_up / 2


def test_only_what_was_not_measured_before_is_and_what_has_no_model_says_why(tmp_path, monkeypatch):
    place, asked = Place(tmp_path), []

    def measured(folder, missing, case, limits):
        asked.append(missing)
        return {name: TIMES for name in missing}

    monkeypatch.setattr(inference, "_measured", measured)
    (tmp_path / "measured-8-2.json").write_text(json.dumps({"alds": TIMES}))
    for _ in range(2):
        rows = inference._measure_case(place, case(2), WAYS, limits=(1.0, 5))
    assert asked == [["latency"]]
    assert [row.case["way"] for row in rows] == ["alds", "latency"]


def test_what_has_no_model_says_why_once(tmp_path):
    (row,) = inference._impossible(Place(tmp_path), "net", WAYS)
    assert row.case == {"network": "net", "way": "uniform", "keep": 0.5}
    assert row.values == {"note": "out of reach"}


def test_the_summary_counts_what_is_slower(tmp_path):
    slow = {clock: times[::-1] for clock, times in TIMES.items()}
    place = Place(tmp_path)
    (tmp_path / "measured-8-2.json").write_text(json.dumps({"alds": TIMES, "latency": slow}))
    rows = inference._measure_case(place, case(2), WAYS, limits=None)
    summary = inference._summary(rows)
    assert "1 of 1 results of ways that look at the clock, and 0 of 1 of the others" in summary
    for quartiles, count in (((0.8, 0.99), 1), ((0.8, 1.01), 0)):
        unsure = Row({"way": "latency"}, {"speed-up": Spread(0.9, *quartiles)}, {})
        assert f"are {count} of 1 results of ways that look" in inference._summary([unsure])
