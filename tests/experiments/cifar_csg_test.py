import json

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from tensorflow import keras

from experiments import cifar_csg
from experiments.config import ExperimentConfig
from experiments.csg_methods import (
    FROM_SCRATCH,
    Network,
    SliceSettings,
    build_model,
    find_network,
    load_generator,
    save_generator,
)
from experiments.csg_training import CsgExperiment, Row, markdown, run_experiment, summarize
from experiments.models import blocks
from experiments.resumable_training import training_batches
from tfapprox.errors import UserError
from tfapprox.layers.slice_generator import SliceGenerator

SLICES = SliceSettings((16, 16, 3, 3), 16, find_network("resnet8").generated)


def experiment(folder, methods, **changes):
    config = ExperimentConfig(
        folder, "synthetic", methods=("exact",), epochs=1, steps=2, batch_size=16,
        learning_rate=0.05, **changes,
    )  # fmt: skip
    return CsgExperiment(config, "resnet8", SLICES, methods, image_size=8, train_examples=64)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("csg")
    return folder, run_experiment(experiment(folder, ("plain", "csg", "post")))


def test_each_training_leaves_both_exports_and_a_generator(finished):
    folder, rows = finished
    by_method = {row.method: row for row in rows}
    assert by_method["plain"].params > by_method["csg"].params == by_method["post"].params
    assert by_method["plain"].folded_bytes == 0
    for method in ("csg", "post"):
        assert by_method[method].folded_bytes < by_method[method].dense_bytes
        for name in ("saved_model/saved_model.pb", "saved_model_folded/saved_model.pb"):
            assert (folder / f"{method}-0" / name).exists()
        assert load_generator(str(folder / f"{method}-0" / "generator.npz")).code_size == 16
    assert json.loads((folder / "results.json").read_text())["network"] == "resnet8"
    assert "| csg |" in (folder / "results.md").read_text()


def test_both_exports_of_a_training_agree(finished):
    folder, _ = finished
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    outputs = []
    for name in ("saved_model", "saved_model_folded"):
        model = tf.saved_model.load(str(folder / "csg-0" / name))
        outputs += list(model.signatures["serving_default"](inputs=tf.constant(images)).values())
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-4)


def test_resuming_a_finished_training_reports_it_again(finished):
    folder, rows = finished
    again = run_experiment(experiment(folder, ("plain", "csg", "post"), resume=True))
    assert [row.test_error for row in again] == [row.test_error for row in rows]


@pytest.fixture
def tiny_network(monkeypatch):
    """Every network is one of two convolutions; `finished` trains a real one."""

    def build(classes, shape, activation):
        x = inputs = keras.Input(shape)
        x = blocks.conv_norm_relu(x, 16, 3, "conv1")
        x = blocks.conv_norm_relu(x, 16, 3, "stage1_unit1_conv1")
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(classes)(x))

    network = Network(build, SLICES.which)
    monkeypatch.setattr("experiments.csg_training.find_network", lambda name: network)


def test_an_interrupted_comparison_goes_on_exactly_within_the_training_it_was_in(
    tiny_network, tmp_path, monkeypatch
):
    methods = ("plain", "csg")
    changes = {"checkpoint_steps": 1}
    whole = run_experiment(experiment(tmp_path / "whole", methods, **changes))
    calls = []

    def batches(*args):
        calls.append(args)
        if len(calls) == 4:  # the second step of the second training
            raise KeyboardInterrupt
        return training_batches(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("experiments.resumable_training.training_batches", batches)
        run_experiment(experiment(tmp_path / "parts", methods, **changes))
    again = run_experiment(experiment(tmp_path / "parts", methods, resume=True, **changes))
    assert [row.test_error for row in again] == [row.test_error for row in whole]
    for method in methods:
        records = [
            json.loads((tmp_path / run / f"{method}-0" / "metrics.jsonl").read_text())
            for run in ("whole", "parts")
        ]
        assert records[0]["train_loss"] == records[1]["train_loss"], method
        assert records[0]["test_loss"] == records[1]["test_loss"], method


@pytest.mark.parametrize("method", [m for m in FROM_SCRATCH if m != "pretrained"])
def test_every_method_has_a_trainable_form_of_a_residual_network(method):
    model = build_model(method, find_network("resnet8"), SLICES, 5, (8, 8, 3))
    assert tuple(model.output.shape) == (None, 5)


def test_a_saved_generator_comes_back_frozen_in_another_network(tmp_path):
    layer = SliceGenerator((16, 16, 3, 3), 16)
    layer.build((None, 1))
    save_generator(layer, tmp_path / "generator.npz")
    slices = SliceSettings((16, 16, 3, 3), 16, SLICES.which, str(tmp_path / "generator.npz"))
    model = build_model("pretrained", find_network("resnet8"), slices, 10, (8, 8, 3))
    copy = next(x for x in model.layers if isinstance(x, SliceGenerator))
    np.testing.assert_array_equal(copy.generator, layer.generator)
    assert copy.trainable_weights == []


def test_rows_are_means_over_seeds_with_their_spread():
    rows = [Row("plain", 200, 2.0, None, 9000, 0, 0.1), Row("csg", 100, 3.0, None, 9000, 5000, 0.1)]
    rows += [
        Row("plain", 200, 4.0, None, 9000, 0, 0.3),
        Row("csg", 100, 3.0, None, 9000, 5000, 0.1),
    ]
    plain, csg = summarize(rows)
    assert (plain.test_error, plain.step_seconds) == (3.0, 0.2)
    assert abs(plain.spread - 2**0.5) < 1e-12
    assert "| csg | 100 | 3.00 (0.00) | 2.00x | 9 | 5 | 0.100 |" in markdown([plain, csg])
    assert "| csg | 100 | 3.00 | " in markdown(summarize(rows[1:2])), "one seed has no spread"


def test_user_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="unknown network 'resnext'"):
        find_network("resnext")
    with pytest.raises(UserError, match="needs --generator"):
        build_model("pretrained", find_network("resnet8"), SLICES, 10, (8, 8, 3))
    with pytest.raises(UserError, match=r"no generator\.npz"):
        load_generator(str(tmp_path / "missing.npz"))
    with pytest.raises(UserError, match="crelu is defined for"):
        build_model("crelu", find_network("vgg16"), SLICES, 10, (32, 32, 3))
    with pytest.raises(UserError, match="residual networks only"):
        build_model("separable_half", find_network("densenet-bc-10-4"), SLICES, 10, (8, 8, 3))
    with pytest.raises(UserError, match="needs plain before it"):
        experiment(tmp_path, ("post", "plain"))
    with pytest.raises(UserError, match="must be among"):
        experiment(tmp_path, ("smaller",))


def test_the_binary_takes_flags(tmp_path):
    arguments = ["--dataset=synthetic", "--image_size=8", "--network=resnet8", "--epochs=1"]
    arguments += ["--train_examples=32", "--batch_size=16", "--slice_shape=12,12,3,3"]
    arguments += ["--code_size=9", "--methods=bcsg", "--which=conv2$", "--steps=1"]
    values = flags.FlagValues()
    cifar_csg.define_flags(values)
    values(["cifar_csg", f"--model_dir={tmp_path}", *arguments])
    assert cifar_csg.main(["cifar_csg"], values) == 0
    assert "--network=resnet8" in (tmp_path / "flags.txt").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["slices"]["code_size"] == 9
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["steps"] == 1


def test_a_bad_flag_is_refused_with_one_line(tmp_path, capsys):
    values = flags.FlagValues()
    cifar_csg.define_flags(values)
    values(["cifar_csg", f"--model_dir={tmp_path}", "--slice_shape=3,3"])
    assert cifar_csg.main(["cifar_csg"], values) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("cifar_csg: --slice_shape needs four numbers")
