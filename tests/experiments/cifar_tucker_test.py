"""Every method of the experiment, at a tiny size, and its flags."""

import json
import sys

import numpy as np
import pytest
from absl import flags

from experiments import cifar_tucker
from experiments.command import save_flags
from experiments.image_training import StepSchedule, build_network, length_of
from experiments.tucker_training import METHODS, run_experiment
from tfapprox.errors import UserError
from tfapprox.serving.cc_loader import CcSession
from tfapprox.training.trade_off import TradeOff

TINY = (
    "--dataset=digits",
    "--noaugment",
    "--network=resnet8",
    "--image_size=16",
    "--train_examples=64",
    "--epochs=3",
    "--at_epoch=1",
    "--reconstruct_at=2",
    "--fine_tune_epochs=1",
    "--batch_size=32",
    "--selector=energy",
    "--keep=0.5",
)


@pytest.fixture
def flag_values():
    values = flags.FlagValues()
    cifar_tucker.define_flags(values)
    return values


def parse(values, *arguments):
    values(["cifar_tucker", *arguments])
    return cifar_tucker.experiment_from_flags(values)


def test_trainings_leave_their_results(tiny_network, flag_values, tmp_path):
    methods = "--methods=reconstruct,original_then_decompose"
    experiment = parse(flag_values, f"--model_dir={tmp_path}", methods, *TINY)
    rows = {row.method: row for row in run_experiment(experiment)}
    whole = tiny_network("tiny", 10, 16).count_params()
    assert all(row.params <= 0.5 * whole for row in rows.values())
    records = (tmp_path / "reconstruct-0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in records] == [1, 2, 3]
    tuned = (tmp_path / "original_then_decompose-0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in tuned] == [1, 2, 3, 4]
    assert len(json.loads((tmp_path / "results.json").read_text())["trainings"]) == 2
    assert (tmp_path / "curves.png").stat().st_size > 1000
    points = json.loads((tmp_path / "trade_offs.json").read_text())
    assert [p["method"] for p in points] == ["reconstruct", "original_then_decompose"]
    assert [p["epoch"] for p in points] == [3, 4]
    for point in points:
        assert TradeOff(**point).params_ratio == pytest.approx(point["params"] / whole, rel=1e-3)
        assert point["test"] == pytest.approx(rows[point["method"]].test / 100)
    name = "original_then_decompose-0"
    with CcSession(str(tmp_path / name / "saved_model")) as session:
        (logits,) = session.run({"inputs": np.zeros((1, 16, 16, 3), "float32")}).values()
    assert logits.shape == (1, 10)

    with pytest.raises(UserError, match=r"selector=energy, not of lrank.*another --model_dir"):
        run_experiment(parse(flag_values, f"--model_dir={tmp_path}", *TINY, "--selector=lrank"))


def test_the_flags_of_a_run_run_it_again(flag_values, tmp_path):
    first = parse(flag_values, f"--model_dir={tmp_path}", "--preset=small", "--seeds=2")
    save_flags(flag_values, tmp_path, of=("model_dir", "network"))
    assert "--dataset: " in flag_values.module_help(sys.argv[0])
    again = flags.FlagValues()
    cifar_tucker.define_flags(again)
    assert parse(again, f"--flagfile={tmp_path / 'flags.txt'}") == first


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_switches(flag_values, method):
    experiment = parse(flag_values, "--model_dir=x", *TINY)
    epochs = [experiment.settings_of(method).is_decomposed(epoch) for epoch in range(3)]
    expected = {"decompose": [False, True, True], "reconstruct": [False, True, False]}
    assert epochs == expected.get(method, [False] * 3)
    assert experiment.epochs_of(method) == 3 + (method == "original_then_decompose")


@pytest.mark.parametrize(
    "network, epochs, at_epoch, reconstruct_at",
    [("vgg19", 200, 10, 190), ("densenet40", 160, 20, 150), ("resnet56", 200, 10, 190)],
)
def test_hyper_parameters_of_the_paper_are_the_defaults(
    flag_values, network, epochs, at_epoch, reconstruct_at
):
    experiment = parse(flag_values, "--model_dir=x", f"--network={network}")
    training, settings, config = (
        experiment.training,
        experiment.settings,
        experiment.training.config,
    )
    assert (config.epochs, config.batch_size, config.learning_rate) == (epochs, 128, 0.1)
    assert [share * epochs for share in training.milestones] == pytest.approx([100, 150])
    assert (training.decay, training.weight_decay) == (0.1, 1e-4)
    assert (training.augment, training.padding) == (True, 4)
    assert (settings.at_epoch, settings.reconstruct_at) == (at_epoch, reconstruct_at)
    assert (settings.decomposition, settings.selector) == ("tucker2", "evbmf")
    assert experiment.fine_tune_epochs == 40


def test_a_preset_gives_way_to_flags_that_are_given(flag_values):
    experiment = parse(flag_values, "--model_dir=x", "--preset=small", "--epochs=4", "--seeds=2")
    assert experiment.training.network == "vgg19-16"
    assert experiment.training.milestones == (0.67, 0.85)
    assert experiment.training.config.epochs == 4
    assert not experiment.settings.compression.admits("logits")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "model_dir"),
        (("--model_dir=x", "--methods=magic"), "--methods"),
        (("--model_dir=x", "--milestones=half"), "milestones"),
        (("--model_dir=x", "--at_epoch=5", "--reconstruct_at=4"), "reconstruct_at"),
        (("--model_dir=x", "--fine_tune_epochs=-1"), "fine_tune_epochs"),
    ],
)
def test_impossible_flags_are_refused(flag_values, arguments, message):
    with pytest.raises(UserError, match=message):
        parse(flag_values, *arguments)


def test_networks_are_found_by_name():
    sizes = [build_network(name, 10).count_params() for name in ("resnet8", "resnet8b")]
    assert sizes[0] < sizes[1]
    plain = [build_network(name, 10).get_layer("conv1_1") for name in ("vgg16-8", "vgg19-8")]
    assert [layer.use_bias for layer in plain] == [True, False]
    for name in ("resnet9", "lenet"):
        with pytest.raises(UserError, match=name):
            build_network(name, 10)


def test_the_schedule_rises_and_falls_in_steps():
    schedule = StepSchedule(0.4, 4, [10, 20], 0.1)
    rates = [float(schedule(step)) for step in (0, 3, 9, 10, 25)]
    np.testing.assert_allclose(rates, [0.1, 0.4, 0.4, 0.04, 0.004], rtol=1e-6)


def test_at_paper_scale_the_small_preset_is_mentioned(flag_values):
    paper = length_of(parse(flag_values, "--model_dir=x"), "paper")
    assert paper.startswith("200 epochs a training of vgg19, methods: 4, seeds: 1; --preset=small")
    assert "--preset" not in length_of(parse(flag_values, "--model_dir=x"), "small")
