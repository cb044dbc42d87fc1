"""What runs a model, what does not, and what can be told not to."""

import socket

import pytest
import tensorflow as tf

from tests.corpus.building import activations, export, variable
from tests.security.hostile import CONFIG
from tfapprox.cli.main import execute
from tfapprox.compression import compress_saved_model
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.serving.cc_loader import CcSession


def test_reading_planning_and_writing_run_nothing(tmp_path, monkeypatch):
    canary = tmp_path / "canary"

    def write(x):
        tf.io.write_file(str(canary), "ran")
        return {"y": tf.matmul(x, variable_kernel)}

    variable_kernel = variable(32, 32)
    export(tmp_path / "m", write, {"x": activations(2, 32)}, {"w": variable_kernel})
    canary.unlink(missing_ok=True)
    for name in ("saved_model.load", "compat.v1.Session"):
        owner = tf.saved_model if name.startswith("saved") else tf.compat.v1
        monkeypatch.setattr(owner, name.rpartition(".")[2], _forbidden)
    monkeypatch.setattr(CcSession, "__init__", _forbidden)
    monkeypatch.setattr(socket.socket, "connect", _forbidden)
    report = compress_saved_model(tmp_path / "m", tmp_path / "small", CONFIG, run=False)
    assert not canary.exists()
    assert report.verification is None and report.latency == ()
    assert any("neither model was run" in note for note in report.notes)
    assert any("reaches beyond its inputs" in note and "WriteFile" in note for note in report.notes)
    monkeypatch.undo()
    with CcSession(str(tmp_path / "small")) as session:
        session.run({"x": activations(2, 32)})
    assert canary.exists()  # running it is what SECURITY.md warns of


def _forbidden(*args, **kwargs):
    raise AssertionError("the model was run")


def test_what_needs_running_is_refused_when_that_is_not_allowed(model, tmp_path):
    with pytest.raises(UserError, match="an evaluate function needs to run the model"):
        compress_saved_model(
            model, tmp_path / "small", CONFIG, run=False, evaluate=lambda path: 1.0
        )


def test_ordinary_models_are_not_said_to_reach_outside(good):
    assert not [note for note in open_saved_model(good).inspection.notes if "beyond" in note]


def test_python_functions_are_named(tmp_path):
    w = variable(8, 8)

    def call(x):
        return {"y": tf.matmul(tf.numpy_function(lambda a: a, [x], tf.float32), w)}

    export(tmp_path / "m", call, {"x": activations(2, 8)}, {"w": w})
    notes = " ".join(open_saved_model(tmp_path / "m").inspection.notes)
    assert "PyFunc" in notes


def test_the_command_line_can_be_told_not_to_run_the_model(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(CcSession, "__init__", _forbidden)
    target = tmp_path / "small"
    start = ["compress", "--dir", str(model), "--output_dir", str(target), "--dont_run"]
    assert execute([*start, "--keep_macs", "0.7", "--rank_multiple", "1"]) == 0
    assert "neither model was run" in capsys.readouterr().out
    assert (target / "saved_model.pb").is_file()
    assert execute([*start, "--keep_latency", "0.7"]) == 2
    assert "of latency needs to run the model" in capsys.readouterr().err


@pytest.fixture(scope="module", name="images")
def _images(tmp_path_factory):
    """Directory of a SavedModel with two convolutions of 16 channels."""
    kernels = [variable(3, 3, 16, 16, seed=seed) for seed in (0, 1)]

    def call(x):
        for kernel in kernels:
            x = tf.nn.conv2d(x, kernel, 1, "SAME")
        return {"y": x}

    path = tmp_path_factory.mktemp("images") / "model"
    export(path, call, {"x": activations(1, 5, 5, 16)}, dict(zip("ab", kernels, strict=True)))
    return path


@pytest.mark.parametrize(
    "method",
    [
        ("--decompositions=crs", "--sampling_ratio=0.5"),
        ("--decompositions=slice_generator", "--keep_params=0.9", "--include=."),
    ],
)
def test_sampling_generating_and_restoring_can_be_told_not_to_run(
    images, tmp_path, monkeypatch, capsys, method
):
    target, dense = tmp_path / "small", tmp_path / "dense"
    with monkeypatch.context() as patch:
        patch.setattr(CcSession, "__init__", _forbidden)
        patch.setattr(tf.saved_model, "load", _forbidden)
        start = ["compress", "--dir", str(images), "--output_dir", str(target), "--dont_run"]
        assert execute([*start, *method]) == 0
        assert "neither model was run" in capsys.readouterr().out
        restore = ["restore", "--dir", str(target), "--output_dir", str(dense), "--dont_run"]
        assert execute(restore) == 0
        assert "neither model was run" in capsys.readouterr().out
    for path in (target, dense):
        with CcSession(str(path)) as session:
            assert session.run({"x": activations(1, 5, 5, 16)})["y"].shape == (1, 5, 5, 16)
