"""Nothing in a model, plan, report or data file is executed as Python."""

import json
import os
import pickle

import numpy as np
import pytest

from tests.security.hostile import CONFIG
from tfapprox.compression import compress_saved_model, plan_saved_model
from tfapprox.errors import UserError
from tfapprox.report.report import Report
from tfapprox.rewriters.plan import Plan
from tfapprox.serving.accuracy import read_labelled, read_labels
from tfapprox.serving.calibration_data import open_calibration_data
from tfapprox.serving.inputs import read_inputs
from tfapprox.serving.signature import read_signatures


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickles_in_npz_and_npy_files_are_not_loaded(model, tmp_path):
    (signature,) = (read_signatures(str(model))["serving_default"],)
    for target in (tmp_path / "bomb.npz", tmp_path / "bomb.npy"):
        array = np.array([Bomb(tmp_path / "exploded")], object)
        save = np.savez if target.suffix == ".npz" else np.save
        save(target, **({"x": array} if target.suffix == ".npz" else {"arr": array}))
        for read in (read_inputs, open_calibration_data, read_labelled):
            with pytest.raises(UserError):
                read(str(target), signature)
    with pytest.raises(UserError, match="allow_pickle=False"):
        read_labels(str(tmp_path / "bomb.npy"), {})
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(UserError):
        read_inputs(str(tmp_path / "raw.npz"), signature)
    assert not (tmp_path / "exploded").exists()


def test_keras_files_and_metadata_beside_the_graph_are_not_deserialised(model, tmp_path):
    layer = {"class_name": "Lambda", "config": {"function": ["4wEAAA==", None, None]}}
    (model / "keras_metadata.pb").write_bytes(json.dumps(layer).encode())
    (model / "saved_model.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    compress_saved_model(model, tmp_path / "small", CONFIG, batch_sizes=(), run=False)
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "small" / "keras_metadata.pb").exists()


def test_plans_and_reports_are_data(tmp_path):
    hostile = [
        "[" * 100_000,
        '{"tfapprox_plan": 1, "sites": [{"site": "w", "kernel_shape": [1, 1, 1e999, 1],'
        ' "choice": null}]}',
        '{"tfapprox_plan": 1, "sites": [{"site": "w", "kernel_shape": [1, 1, 8, 8],'
        ' "choice": {"decomposition": "os.system", "rank": "__import__(\'os\')"}}]}',
        '{"tfapprox_plan": 1, "sites": {"__reduce__": []}}',
    ]
    for text in hostile:
        with pytest.raises(UserError):
            Plan.from_json(text)
    with pytest.raises(UserError):
        Report.from_json({"tfapprox_report": 1, "plan": {"__class__": "os"}})


@pytest.mark.parametrize(
    "choice",
    [
        {"decomposition": "../../etc/passwd", "rank": 1},
        {"decomposition": "svd", "scheme": 0, "slices": 1, "rank": 10**15},
        {"decomposition": "svd", "scheme": 0, "slices": 10**9, "rank": 1},
        {"decomposition": "svd", "scheme": -1, "slices": 0, "rank": -5},
        {"decomposition": "svd"},
    ],
)
def test_a_plan_that_does_not_fit_is_refused_at_once(model, tmp_path, choice):
    plan = json.loads(plan_saved_model(model, CONFIG).to_json())
    plan["sites"][0]["choice"] = choice
    with pytest.raises(UserError):
        compress_saved_model(
            model, tmp_path / "small", CONFIG, plan=Plan.from_json(json.dumps(plan)), run=False
        )
    assert not (tmp_path / "small").exists()
