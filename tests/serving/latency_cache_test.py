"""The cache keeps what was measured, apart for each setting, whatever happens beside it."""

import pytest

from tfapprox.errors import UserError
from tfapprox.selection.latency_table import RelativeTime
from tfapprox.serving.latency_cache import LatencyCache, Machine, cache_folder

MACHINE = Machine("processor", 2, None, "2.21.0")
FAST, SLOW = RelativeTime(0.5, 0.1), RelativeTime(1.5, 0.0)


def test_what_was_added_is_there_in_the_next_run(tmp_path):
    cache = LatencyCache(MACHINE, tmp_path / "deep" / "folder")
    cache.add("work", {"chain": FAST})
    cache.add("work", {"other": SLOW})
    again = LatencyCache(MACHINE, tmp_path / "deep" / "folder")
    assert again.times("work") == {"chain": FAST, "other": SLOW}
    assert again.times("unknown") == {}
    assert [path.suffix for path in again.path.parent.iterdir()] == [".json"]


def test_times_of_another_processor_threads_or_version_are_not_used(tmp_path):
    LatencyCache(MACHINE, tmp_path).add("work", {"chain": FAST})
    for other in (
        Machine("another", 2, None, "2.21.0"),
        Machine("processor", 4, None, "2.21.0"),
        Machine("processor", 2, 1, "2.21.0"),
        Machine("processor", 2, None, "2.22.0"),
    ):
        assert LatencyCache(other, tmp_path).times("work") == {}


def test_runs_side_by_side_keep_each_other_s_times(tmp_path):
    one, two = LatencyCache(MACHINE, tmp_path), LatencyCache(MACHINE, tmp_path)
    one.add("work", {"chain": FAST})
    two.add("work", {"other": SLOW})
    one.add("more", {"chain": SLOW})
    last = LatencyCache(MACHINE, tmp_path)
    assert last.times("work") == {"chain": FAST, "other": SLOW}
    assert last.times("more") == {"chain": SLOW}


@pytest.mark.parametrize("content", ["", "[]", '{"tfapprox_latency": 1}', "{1"])
def test_another_file_in_its_place_is_refused_with_the_way_out(tmp_path, content):
    LatencyCache(MACHINE, tmp_path).add("work", {"chain": FAST})
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    with pytest.raises(UserError, match="delete it") as caught:
        LatencyCache(MACHINE, tmp_path)
    assert str(path) in str(caught.value)


def test_times_of_another_version_of_the_file_are_measured_anew(tmp_path):
    cache = LatencyCache(MACHINE, tmp_path)
    cache.add("work", {"chain": FAST})
    cache.path.write_text(cache.path.read_text().replace('latency": 1', 'latency": 0'))
    assert LatencyCache(MACHINE, tmp_path).times("work") == {}


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="TFAPPROX_CACHE_DIR"):
        LatencyCache(MACHINE, tmp_path / "file").add("work", {"chain": FAST})


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TFAPPROX_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TFAPPROX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tfapprox"


def test_this_machine_is_described():
    here = Machine.here(3)
    assert here.processor and here.cores >= 1 and here.threads == 3
    assert here.tensorflow.count(".") >= 2
