"""`tfapprox compress --warmup`: the record travels in the result and replays there."""

import importlib.util
import pathlib
import shutil

import numpy as np
import pytest

from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.warmup import WARMUP_FILE, read_warmup

pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")


@pytest.fixture
def compress(tfapprox_run, tmp_path):
    def run(source, *argv):
        out = tmp_path / "small"
        flags = ("--keep_macs", "0.6", "--slices", "1", "--overwrite")
        assert tfapprox_run("compress", "--dir", source, "--output_dir", out, *flags, *argv)[0] == 0
        return out

    return run


def test_record_replays_on_the_compressed_model(compress, model, inputs):
    small = compress(model, "--warmup", inputs)
    with CcSession(str(small)) as session:
        sizes = [len(session.run(arrays, name)["y"]) for name, arrays in read_warmup(small)]
    assert sizes == [1, 16]


def test_a_record_of_the_source_is_kept_unless_replaced(compress, model, inputs, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(model, source)
    (source / WARMUP_FILE).parent.mkdir()
    (source / WARMUP_FILE).write_bytes(b"theirs")
    assert (compress(source) / WARMUP_FILE).read_bytes() == b"theirs"
    assert len(list(read_warmup(compress(source, "--warmup", inputs)))) == 2


def test_what_can_t_be_replayed_is_refused_before_any_work(refused, model, inputs, tmp_path):
    command = ("compress", "--dir", model, "--output_dir", tmp_path / "out", "--keep_macs", "0.6")
    np.savez(tmp_path / "shape.npz", x=np.zeros((1, 63), np.float32))
    assert "63" in refused(*command, "--warmup", tmp_path / "shape.npz")
    assert "nope.npz" in refused(*command, "--warmup", "nope.npz")
    assert "--warmup" in refused(*command, "--warmup", inputs, "--dry_run")
    assert not pathlib.Path(tmp_path, "out").exists()


def test_missing_extra_is_told_with_the_pip_line(refused, model, inputs, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "tensorflow_serving" else find(n)
    )
    command = ("compress", "--dir", model, "--output_dir", tmp_path / "out", "--keep_macs", "0.6")
    assert "pip install 'tfapprox[serving]'" in refused(*command, "--warmup", inputs)
