"""Publishing is all or nothing, whatever happens on the way."""

import errno
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tfapprox.errors import UserError
from tfapprox.rewriters import publish
from tfapprox.rewriters.publish import check_target, staged


def _model(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "saved_model.pb").write_text(content)
    return path


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_clean_exit_puts_the_directory_in_place(tmp_path):
    target = tmp_path / "deep" / "out"
    with staged(target) as staging:
        (staging / "saved_model.pb").write_text("new")
        assert not target.exists()
    assert (target / "saved_model.pb").read_text() == "new"
    assert _names(target.parent) == ["out"]


@pytest.mark.parametrize("exchange_works", [True, False])
def test_an_existing_target_is_replaced_whole(tmp_path, monkeypatch, exchange_works):
    if not exchange_works:
        monkeypatch.setattr(publish, "_exchange", lambda first, second: False)
    target = _model(tmp_path / "out", "old")
    (target / "extra").write_text("of the old one")
    with staged(target) as staging:
        (staging / "saved_model.pb").write_text("new")
    assert _names(target) == ["saved_model.pb"]
    assert (target / "saved_model.pb").read_text() == "new"
    assert _names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failure_leaves_the_target_and_no_trace(tmp_path, failure):
    target = _model(tmp_path / "out", "old")
    with pytest.raises(type(failure)), staged(target) as staging:
        (staging / "saved_model.pb").write_text("half")
        raise failure
    assert (target / "saved_model.pb").read_text() == "old"
    assert _names(tmp_path) == ["out"]


def test_a_failed_second_rename_restores_the_target(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "_exchange", lambda first, second: False)
    target = _model(tmp_path / "out", "old")
    rename, calls = publish.os.rename, []

    def second_fails(source, destination):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(publish.os, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output"), staged(target) as staging:
        (staging / "saved_model.pb").write_text("new")
    assert (target / "saved_model.pb").read_text() == "old"
    assert _names(tmp_path) == ["out"]


def test_a_killed_writer_leaves_the_target_and_the_next_call_cleans_up(tmp_path):
    target = _model(tmp_path / "out", "old")
    script = f"""
        import time
        from pathlib import Path
        from tfapprox.rewriters.publish import staged
        with staged(Path({str(target)!r})) as staging:
            (staging / "saved_model.pb").write_text("half")
            print("ready", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "ready\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert (target / "saved_model.pb").read_text() == "old"
    assert len(_names(tmp_path)) == 2
    with staged(target) as staging:
        (staging / "saved_model.pb").write_text("new")
    assert _names(tmp_path) == ["out"]
    assert (target / "saved_model.pb").read_text() == "new"


def test_the_staging_directory_of_a_running_writer_is_left_alone(tmp_path):
    with staged(tmp_path / "out") as first:
        (first / "saved_model.pb").write_text("first")
        with staged(tmp_path / "out") as second:
            (second / "saved_model.pb").write_text("second")
        assert first.exists()
    assert (tmp_path / "out" / "saved_model.pb").read_text() == "first"


def test_the_published_directory_has_ordinary_permissions(tmp_path):
    with staged(tmp_path / "out"):
        pass
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("target", ["source", "source/inside", "."])
def test_a_target_that_overlaps_the_source_is_refused(tmp_path, target):
    source = _model(tmp_path / "source", "old")
    with pytest.raises(UserError, match="overlaps the source"):
        check_target(tmp_path / target, source, overwrite=True)


def test_an_existing_target_needs_overwrite_and_must_be_a_saved_model(tmp_path):
    source = _model(tmp_path / "source", "old")
    target = _model(tmp_path / "out", "old")
    with pytest.raises(UserError, match="--overwrite"):
        check_target(target, source, overwrite=False)
    check_target(target, source, overwrite=True)
    (target / "saved_model.pb").rename(target / "photos.zip")
    with pytest.raises(UserError, match="will not delete"):
        check_target(target, source, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no directory"):
        check_target(tmp_path / "file", source, overwrite=True)
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty", source, overwrite=False)
