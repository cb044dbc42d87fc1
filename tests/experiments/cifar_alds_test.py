"""The experiment at a tiny size, and its flags."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from experiments import cifar_alds
from experiments.alds_training import METHODS, run_experiment
from experiments.image_training import training_process
from tfapprox.errors import UserError
from tfapprox.serving.cc_loader import CcSession
from tfapprox.training.compress_retrain import load_model

TINY = (
    "--dataset=digits",
    "--noaugment",
    "--image_size=16",
    "--train_examples=32",
    "--epochs=1",
    "--mode=compress_only",
    "--batch_size=32",
    "--keeps=0.5",
    "--methods=alds,svd",
    "--drop=1",
)


def parse(*arguments):
    values = flags.FlagValues()
    cifar_alds.define_flags(values)
    values(["cifar_alds", *arguments])
    return cifar_alds.experiment_from_flags(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the dense network is trained by whichever test comes first."""
    return tmp_path_factory.mktemp("alds")


def test_methods_share_the_dense_training_and_leave_results(tiny_network, folder):
    experiment = parse(f"--model_dir={folder}", *TINY)
    rows = run_experiment(experiment)
    assert [row.method for row in rows] == ["dense", "alds", "svd"]
    assert all(row.params_ratio <= row.keep for row in rows)
    assert len(json.loads((folder / "results.json").read_text())["rows"]) == 3
    assert (folder / "results.png").exists()
    assert "| alds |" in (folder / "results.md").read_text()
    with CcSession(str(folder / "0" / "alds-chosen")) as session:
        (logits,) = session.run({"inputs": np.zeros((1, 16, 16, 3), "float32")}).values()
    assert logits.shape == (1, 10)


@pytest.mark.parametrize("mode", ["compress_only", "iterative"])
def test_every_baseline_reaches_the_ratio(mode, tiny_network, folder):
    methods = ["pca", "messi", "alds_simple", "ft", "pfp"] if mode == "compress_only" else ["pfp"]
    experiment = parse(
        f"--model_dir={folder}",
        *TINY[:-2],
        f"--methods={','.join(methods)}",
        f"--mode={mode}",
        "--drop=-1",  # exports none
    )
    rows = run_experiment(experiment)
    assert [row.method for row in rows] == ["dense", *methods]
    assert all(row.params_ratio <= 0.5 for row in rows[1:])


def test_strategy_and_precision_hold_for_what_compressing_makes(tiny_network, tmp_path):
    experiment = parse(
        f"--model_dir={tmp_path}",
        *TINY[:-2],
        "--methods=svd",
        "--mode=one_shot",
        "--distribution_strategy=mirrored",
        "--mixed_precision=mixed_bfloat16",
        "--drop=1",
    )
    config = experiment.training.config
    with training_process(config):
        (dense, small) = run_experiment(experiment)
        model = load_model(tmp_path / "0", small, "one_shot")
        assert isinstance(model.distribute_strategy, tf.distribute.MirroredStrategy)
    assert small.params < dense.params
    policies = {layer.dtype_policy.name for layer in model.layers}
    assert policies == {"mixed_bfloat16"}
    assert keras.mixed_precision.dtype_policy().name == "float32"


def test_hyper_parameters_of_the_paper_are_the_defaults():
    training = parse("--model_dir=x", "--network=densenet22").training
    assert (training.config.epochs, training.config.batch_size, training.nesterov) == (
        300,
        64,
        True,
    )
    assert training.milestones == (0.5, 0.75)
    experiment = parse("--model_dir=x")
    assert experiment.training.config.epochs == experiment.retrain_epochs == 182
    assert experiment.keeps[:2] == pytest.approx((0.8, 0.64)) and experiment.keeps[-1] <= 0.05


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_settings(method):
    config = parse("--model_dir=x", f"--methods={method}").config_of(method, 3)
    assert (config.method, config.seed) == (method, 3)


def test_what_is_excluded_stays_dense_in_every_method_that_decomposes():
    experiment = parse("--model_dir=x", "--preset=small")
    configs = {name: experiment.config_of(name, 0).compression for name in METHODS}
    admitted = {name for name, config in configs.items() if config.admits("logits")}
    assert admitted == {"ft", "pfp"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "model_dir"),
        (("--model_dir=x", "--methods=magic"), "--methods"),
        (("--model_dir=x", "--keeps=half"), "--keeps"),
        (("--model_dir=x", "--alpha=1"), r"in \(0, 1\), got 1.0 to 0.05"),
        (("--model_dir=x", "--least=0"), r"in \(0, 1\), got 0.8 to 0.0"),
        (("--model_dir=x", "--image_size=24"), "--image_size"),
        (("--model_dir=x", "--epochs=2", "--retrain_epochs=3"), "retrain_epochs"),
    ],
)
def test_impossible_flags_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        parse(*arguments)


def test_results_of_other_settings_are_not_mixed_in(tiny_network, folder):
    run_experiment(parse(f"--model_dir={folder}", *TINY))
    for flag, told in (
        ("--epochs=2", "config.epochs=1, not of 2"),
        ("--exclude=x", "exclude=None"),
    ):
        with pytest.raises(UserError, match=f"{told}.*another --model_dir"):
            run_experiment(parse(f"--model_dir={folder}", *TINY, flag))


def test_ratios_may_be_of_the_multiply_adds(tiny_network, folder, tmp_path):
    params = run_experiment(parse(f"--model_dir={folder}", *TINY, "--methods=alds"))[1]
    macs = run_experiment(parse(f"--model_dir={tmp_path}", *TINY, "--methods=alds", "--cost=macs"))[
        1
    ]
    assert params.macs_ratio < macs.macs_ratio <= 0.5
    assert json.loads((tmp_path / "settings.json").read_text())["cost"] == "macs"
