"""The demo goes the whole way, at a tiny size, and judges itself honestly."""

import json

import numpy as np
import pytest
from absl import app, flags

from experiments import digits_demo
from experiments.digits_demo import DemoConfig, load_digits, run_demo
from tfapprox.serving.cc_loader import CcSession


def test_held_out_images_are_not_trained_on():
    train, test = load_digits(seed=0)
    assert (len(train.labels), len(test.labels)) == (1347, 450)
    seen = {image.tobytes() for image in train.images}
    assert sum(image.tobytes() in seen for image in test.images) == 0
    assert np.bincount(test.labels).min() > 40


def test_demo_writes_models_report_and_metrics(tmp_path, measured_here):
    metrics = run_demo(DemoConfig(tmp_path, keep_macs=0.6, epochs=1, width=16))
    assert metrics["macs_kept"] <= 0.6
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    page = (tmp_path / "report.html").read_text()
    assert "<html" in page and "Held out accuracy" in page
    inputs = dict(np.load(tmp_path / "inputs.npz"))
    with CcSession(str(tmp_path / "compressed")) as session:
        (scores,) = session.run(inputs).values()
    right = scores.argmax(axis=1) == load_digits(seed=0)[1].labels
    assert right.mean() == pytest.approx(metrics["accuracy_after"])


@pytest.mark.parametrize(("after", "status"), [(0.985, 0), (0.975, 1)])
def test_demo_fails_when_more_than_a_point_is_lost(monkeypatch, tmp_path, after, status):
    monkeypatch.setattr(
        digits_demo,
        "run_demo",
        lambda config: {"accuracy_before": 0.99, "accuracy_after": after},
    )
    values = flags.FlagValues()
    digits_demo.define_flags(values)
    values(["digits_demo", f"--output_dir={tmp_path}"])
    assert digits_demo.main(["digits_demo"], values) == status


def test_wrong_settings_are_told_in_one_line_before_training(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(digits_demo, "train_and_export", None)
    values = flags.FlagValues()
    digits_demo.define_flags(values)
    values(["digits_demo", f"--output_dir={tmp_path}", "--keep_macs=2"])
    assert digits_demo.main(["digits_demo"], values) == 2
    assert capsys.readouterr().err == "digits_demo: keep ratio must be in (0, 1], got 2.0\n"


def test_stray_arguments_are_refused():
    with pytest.raises(app.UsageError, match="surplus"):
        digits_demo.main(["digits_demo", "surplus"])
