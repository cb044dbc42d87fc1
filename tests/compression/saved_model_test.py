"""The pipeline publishes what it verified, whole, or leaves everything as it was."""

import dataclasses
import hashlib
import json
import multiprocessing
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.reference import killable_compression
from tfapprox.compression import compress_model, compress_saved_model, plan_saved_model
from tfapprox.config import CompressionConfig
from tfapprox.errors import InfeasibleBudgetError, UserError, VerificationError
from tfapprox.report.report import Report
from tfapprox.rewriters.plan import EXTRA, Plan
from tfapprox.selection.problem import Budget
from tfapprox.serving.cc_loader import CcSession

HALF = CompressionConfig(Budget("macs", keep=0.5))


@pytest.fixture(scope="module")
def keras_model():
    from tensorflow import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="first"),
            layers.Conv2D(64, 3, strides=2, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, name="head"),
        ]
    )


@pytest.fixture(scope="module")
def source(keras_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "model"
    keras_model.export(path, verbose=False)
    return path


def _content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_saved_model_comes_out_cheaper_verified_and_reported(source, tmp_path):
    before = _content(source)
    target = tmp_path / "out"
    report = compress_saved_model(source, target, HALF, batch_sizes=(1,))
    assert _content(source) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert report.verification.passed and len(report.latency) == 1
    assert report.after.macs <= 0.5 * report.before.macs
    assert report.after.params < report.before.params
    assert report.after.disk_bytes < report.before.disk_bytes
    assert Report.from_json(json.loads((target / EXTRA / "report.json").read_text())) == report
    assert Plan.from_json((target / EXTRA / "plan.json").read_text()) == report.plan
    with CcSession(str(target)) as session:
        (key,) = session.signatures["serving_default"].inputs
        outputs = session.run({key: np.zeros((2, 12, 12, 3), np.float32)})
        assert [value.shape for value in outputs.values()] == [(2, 10)]


def test_the_dry_run_s_plan_is_the_one_that_is_applied(source, tmp_path):
    plan = plan_saved_model(source, HALF)
    report = compress_saved_model(source, tmp_path / "out", HALF, batch_sizes=())
    assert report.plan == plan
    again = compress_saved_model(source, tmp_path / "again", HALF, plan=plan, batch_sizes=())
    assert again.plan == plan
    first, second = (_content(tmp_path / name / "variables") for name in ("out", "again"))
    assert first == second


def test_a_keras_model_comes_out_cheaper_and_the_original_stays(keras_model):
    before = [np.array(w) for w in keras_model.get_weights()]
    smaller, report = compress_model(keras_model, HALF)
    assert smaller.count_params() == report.after.params < report.before.params
    assert report.after.macs <= 0.5 * report.before.macs
    assert report.verification.passed
    for old, new in zip(before, keras_model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "door", [compress_model, plan_saved_model, lambda *a: compress_saved_model("m", *a)]
)
def test_a_budget_in_the_place_of_a_config_is_refused_with_the_call_to_write(door):
    with pytest.raises(UserError, match=r"got Budget\(.*write CompressionConfig\(Budget"):
        door("model", Budget("macs", keep=0.5))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"budget": 0.5}, 'budget must be a Budget, e.g. Budget("macs", keep=0.5), got 0.5'),
        ({"decompositions": "svd"}, "a tuple of names: write ('svd',)"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(settings, complaint):
    with pytest.raises(UserError, match=re.escape(complaint)):
        dataclasses.replace(HALF, **settings)


def test_data_that_the_model_does_not_take_are_refused_with_both_shapes(keras_model):
    x, labels = np.zeros((40, 12, 12, 3), np.float32), np.zeros(40, np.int64)
    with pytest.raises(UserError, match=r"without labels.*\(1,\)"):
        compress_model(keras_model, HALF, calibration_data=[(x, labels)])
    for name in ("inputs", "calibration_data"):
        with pytest.raises(UserError, match=rf"^{name}: .*\(None, 12, 12, 3\).*12, 12, 1\)"):
            compress_model(keras_model, HALF, **{name: x[..., :1]})


def test_a_keras_model_in_the_place_of_a_directory_is_refused(keras_model, tmp_path):
    with pytest.raises(UserError, match="got Sequential; compress_model takes Keras models"):
        compress_saved_model(keras_model, tmp_path / "small", HALF)


def test_a_budget_that_is_no_number_is_refused():
    with pytest.raises(UserError, match=r"keep must be a number, got '0.5'"):
        Budget("macs", keep="0.5")


@pytest.mark.parametrize(
    ("keep", "error", "complaint"),
    [(0.001, InfeasibleBudgetError, "out of reach"), (1.0, UserError, "nothing to do")],
)
def test_a_budget_that_asks_for_too_much_or_nothing_writes_nothing(
    source, tmp_path, keep, error, complaint
):
    config = CompressionConfig(Budget("macs", keep=keep))
    with pytest.raises(error, match=complaint):
        compress_saved_model(source, tmp_path / "out", config)
    assert not list(tmp_path.iterdir())


def test_a_failed_verification_leaves_the_target_as_it_was(source, tmp_path, monkeypatch):
    from tfapprox.rewriters import saved_model

    def drop_a_file(opened, factorizations, directory, write=saved_model.write_saved_model):
        write(opened, factorizations, directory)
        (Path(directory) / "variables" / "variables.index").unlink()

    target = tmp_path / "out"
    compress_saved_model(source, target, HALF, batch_sizes=())
    before = _content(target)
    monkeypatch.setattr(saved_model, "write_saved_model", drop_a_file)
    with pytest.raises((VerificationError, UserError)):
        compress_saved_model(source, target, HALF, overwrite=True, batch_sizes=())
    assert _content(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("how", "phase"),
    [
        (signal.SIGKILL, "planning"),
        (signal.SIGKILL, "writing"),
        (signal.SIGKILL, "verifying"),
        (signal.SIGINT, "writing"),
        (signal.SIGINT, "measuring"),
    ],
)
def test_a_process_ended_in_any_phase_leaves_the_target_as_it_was(source, tmp_path, how, phase):
    target = tmp_path / "out"
    target.mkdir()
    (target / "saved_model.pb").write_text("old")
    # The server imports TensorFlow once; what it forks starts in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([killable_compression.__name__])
    arguments = (str(source), str(target), how, phase)
    process = context.Process(target=killable_compression.main, args=arguments)
    process.start()
    process.join(900)
    # An interrupt that nobody catches ends a Python process like any exception.
    assert process.exitcode == (1 if how == signal.SIGINT else -how)
    assert _content(target) == {"saved_model.pb": hashlib.sha256(b"old").hexdigest()}
    if how == signal.SIGINT:
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_the_target_as_it_was(source, tmp_path, monkeypatch):
    from tfapprox.rewriters import saved_model

    def fill_the_disk(opened, factorizations, directory):
        (Path(directory) / "saved_model.pb").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_model, "write_saved_model", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        compress_saved_model(source, tmp_path / "out", HALF)
    assert not list(tmp_path.iterdir())
