"""--compress: the trained network and the compressed ones side by side."""

import json

import numpy as np
import pytest
from absl import flags

from experiments import mnist_cnn, mnist_mlp, ptb_lstm
from experiments.config import ExperimentConfig, config_from_flags, define_flags
from experiments.harness import train
from tfapprox.errors import UserError
from tfapprox.sampling.settings import Sampling
from tfapprox.serving.cc_loader import CcSession
from tfapprox.training.trade_off import TradeOff

HALF = Sampling(forward_ratio=0.5)


def config(folder, **fields):
    defaults = {"sampling": HALF, "size": 64, "compress": (0.6, 0.4), "batch_size": 50}
    return ExperimentConfig(folder, **{**defaults, **fields})


@pytest.mark.parametrize(
    "task, fields", [(mnist_mlp.TASK, {"epochs": 3}), (mnist_cnn.TASK, {"steps": 5})]
)
@pytest.mark.parametrize("method", ["exact", "crs"])
def test_trained_and_compressed_networks_are_both_reported(task, fields, method, tmp_path):
    result = train(task, config(tmp_path, **fields), method, 3, tmp_path)
    rows = [TradeOff(**row) for row in json.loads((tmp_path / "trade_offs.json").read_text())]
    assert [(row.method, row.keep, row.seed) for row in rows] == [
        ("dense", 1.0, 3),
        ("alds", 0.6, 3),
        ("alds", 0.4, 3),
    ]
    assert rows[0].test == pytest.approx(result.history[-1]["test_accuracy"])
    assert all(row.params_ratio <= row.keep for row in rows)
    if task is mnist_mlp.TASK:
        # Well above the tenth that guessing gets; sampled networks start more slowly.
        assert rows[0].test > (0.7 if method == "exact" else 0.4) and rows[1].test > 0.3
    assert "| alds | 0.4 |" in (tmp_path / "compressed.md").read_text()
    with CcSession(str(tmp_path / "compressed-0.4")) as session:
        logits = session.run({"inputs": np.zeros((3, 8, 8, 1), np.float32)})["logits"]
    assert logits.shape == (3, 10)


def parse(*arguments):
    values = flags.FlagValues()
    define_flags(values)
    values(["mnist_mlp", "--model_dir=x", *arguments])
    return config_from_flags(values)


def test_shares_come_from_the_flag():
    assert parse("--compress=0.5,0.2").compress == (0.5, 0.2)
    assert parse().compress == ()


@pytest.mark.parametrize("shares", ["half", "1.5", "0"])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(UserError, match="compress"):
        parse(f"--compress={shares}")


def test_language_models_are_refused(tmp_path):
    with pytest.raises(UserError, match="image classifiers"):
        train(ptb_lstm.TASK, config(tmp_path), "crs", 0, tmp_path)
