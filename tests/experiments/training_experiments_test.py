"""Every training binary at a tiny size, and what they promise about it."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from tensorflow import keras

from experiments import binary, cifar_wrn, comparison, mnist_cnn, mnist_mlp, ptb_lstm
from experiments.command import save_flags
from experiments.config import ExperimentConfig, config_from_flags, define_flags
from experiments.harness import Result, train
from experiments.images import crop_and_flip
from experiments.progress import TrainingProgress
from experiments.resumable_training import training_batches
from tfapprox.errors import UserError
from tfapprox.sampling.settings import Sampling
from tfapprox.serving.cc_loader import CcSession

HALF = Sampling(forward_ratio=0.5)


def config(folder, **fields):
    defaults = {"dataset": "digits", "sampling": HALF, "size": 32, "epochs": 2}
    return ExperimentConfig(folder, **{**defaults, **fields})


@pytest.mark.parametrize(
    "task, fields, inputs",
    [
        (mnist_mlp.TASK, {"batch_size": 100}, np.zeros((3, 8, 8, 1), np.float32)),
        (mnist_cnn.TASK, {"steps": 3}, np.zeros((3, 8, 8, 1), np.float32)),
        (
            ptb_lstm.TASK,
            {"dataset": "synthetic", "size": 16, "steps": 3, "batch_size": 20},
            np.zeros((3, 35), np.int32),
        ),
        (
            cifar_wrn.TASK,
            {"dataset": "synthetic", "size": 1001, "steps": 2, "batch_size": 16},
            np.zeros((3, 32, 32, 3), np.float32),
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_experiments_train_measure_and_export_for_the_cpp_loader(task, fields, inputs, tmp_path):
    result = train(task, config(tmp_path, **fields), "crs", 0, tmp_path)
    records = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records == result.history
    assert np.isfinite(records[-1]["train_loss"])
    assert 0 < result.compute_reduction < 1
    with CcSession(str(tmp_path / "saved_model")) as session:
        logits = session.run({"inputs": inputs})["logits"]
    assert len(logits) == 3
    assert np.isfinite(logits).all()


def test_the_perceptron_learns_digits_on_samples_as_well_as_exactly(tmp_path):
    accuracy = {}
    for method in ("exact", "crs"):
        own = config(tmp_path, size=128, epochs=8, batch_size=25)
        accuracy[method] = train(mnist_mlp.TASK, own, method, 0, tmp_path / method).test
    assert accuracy["exact"] > 0.94
    assert accuracy["crs"] > 0.9


def test_principal_components_give_the_network_another_basis_and_the_export_takes_pixels(tmp_path):
    own = config(tmp_path, size=64, epochs=3, inputs="principal", batch_size=50)
    data = mnist_mlp.TASK.load(own)
    flat = data.train.x.reshape(len(data.train), -1)
    moments = flat.T @ flat / len(flat)
    np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=2e-3 * moments.max())
    assert np.all(np.diff(np.diag(moments)) < 1e-3)
    trained = train(mnist_mlp.TASK, own, "crs", 0, tmp_path)
    pixels = mnist_mlp.TASK.load(config(tmp_path)).test
    with CcSession(str(tmp_path / "saved_model")) as session:
        logits = session.run({"inputs": pixels.x.astype(np.float32) / 255})["logits"]
    accuracy = np.mean(logits.argmax(1) == pixels.y)
    assert accuracy == pytest.approx(trained.history[-1]["test_accuracy"], abs=0.01)


def test_a_training_says_how_long_it_is_and_a_long_one_how_to_shorten_it(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(TrainingProgress, "say", lambda self, line: said.append(line))
    train(mnist_mlp.TASK, config(tmp_path, steps=2, batch_size=400), "exact", 3, tmp_path)
    assert said[0] == "exact seed 3: 2 steps of 400 examples, 3,466 parameters"
    for task in (mnist_mlp.TASK, mnist_cnn.TASK, ptb_lstm.TASK, cifar_wrn.TASK):
        told = task.length(75_000, 128, 36_500_000)
        assert told.startswith("75,000 steps of 128 examples, 36,500,000 parameters; to see it run")
        assert "--size=" in told


def test_more_than_all_examples_in_a_batch_is_refused(tmp_path):
    with pytest.raises(UserError, match="--batch_size=5000"):
        train(mnist_mlp.TASK, config(tmp_path, batch_size=5000), "crs", 0, tmp_path)


def test_a_training_with_other_settings_is_not_taken_for_ones_own(tmp_path):
    def go_on(method="crs", seed=0, **more):
        return train(
            mnist_mlp.TASK, config(tmp_path, steps=1, resume=True, **more), method, seed, tmp_path
        )

    half, quarter = Sampling(forward_ratio=0.5), Sampling(forward_ratio=0.25)
    first = go_on(sampling=half)
    for change, told in (
        ({"method": "exact"}, "method=crs, not of exact"),
        ({"seed": 1}, "seed=0, not of 1"),
        ({"sampling": quarter}, "sampling.forward_ratio=0.5, not of 0.25"),
        ({"learning_rate": 0.5}, "learning_rate=0.0, not of 0.5"),
    ):
        with pytest.raises(UserError, match=told):
            go_on(**{"sampling": half} | change)
    assert go_on(sampling=half, checkpoint_steps=1).history == first.history
    anew = config(tmp_path, steps=1, sampling=quarter)
    train(mnist_mlp.TASK, anew, "exact", 0, tmp_path)
    again = go_on("exact", sampling=half)  # exact training knows no ratio
    assert again.history != first.history

    (tmp_path / "settings.json").unlink()
    with pytest.raises(UserError, match=r"--resume: .* other settings"):
        go_on("exact", size=48)


def test_a_folder_that_can_t_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    values = flags.FlagValues()
    define_flags(values)
    values(["mnist_mlp", f"--model_dir={tmp_path}/file/below"])
    assert binary.run(mnist_mlp.TASK, ["mnist_mlp"], values) == 2
    assert capsys.readouterr().err.startswith("mnist_mlp: [Errno")


def test_the_last_steps_are_exact_where_asked(tmp_path):
    own = config(tmp_path, epochs=2, exact_share=0.25, batch_size=300)
    result = train(mnist_mlp.TASK, own, "crs_exact_end", 0, tmp_path)
    assert [r["steps"] for r in result.history] == [4, 4]
    reductions = [r["compute_reduction"] for r in result.history]
    assert reductions == [pytest.approx(0.5), pytest.approx(0.25)]
    assert result.compute_reduction == pytest.approx(0.375)


def test_an_exact_end_keeps_sampling_the_gradients(tmp_path):
    sampling = Sampling(forward_ratio=0.5, backward_ratio=0.25)
    own = config(tmp_path, epochs=2, exact_share=0.5, batch_size=300, sampling=sampling)
    sampled, end = train(mnist_mlp.TASK, own, "crs_exact_end", 0, tmp_path).history
    # 64-32-32-10 at batch 300: dW on 75 examples, dX on 10 of 32 and all 10 output channels.
    first, second, last = 64 * 32, 32 * 32, 32 * 10
    exact = 2 * first + 3 * second + 3 * last
    kept = 1.25 * first + (1.25 + 10 / 32) * second + 2.25 * last
    assert end["compute_reduction"] == pytest.approx(1 - kept / exact)
    assert sampled["compute_reduction"] == pytest.approx(1 - 0.5 * kept / exact)


def test_expected_kernels_are_evaluated_and_exported_but_trained_on_as_they_were(tmp_path):
    results, logits = {}, {}
    images = mnist_mlp.TASK.load(config(tmp_path)).test
    for evaluation in ("exact", "expected"):
        own = config(tmp_path, evaluation=evaluation, sampling=Sampling(forward_ratio=0.25))
        results[evaluation] = train(mnist_mlp.TASK, own, "crs", 0, tmp_path / evaluation)
        with CcSession(str(tmp_path / evaluation / "saved_model")) as session:
            logits[evaluation] = session.run({"inputs": images.x.astype(np.float32) / 255})[
                "logits"
            ]
    exact, expected = (results[name].history for name in ("exact", "expected"))
    assert [r["train_loss"] for r in exact] == [r["train_loss"] for r in expected]
    assert exact[0]["test_loss"] != expected[0]["test_loss"]
    accuracy = np.mean(logits["expected"].argmax(1) == images.y)
    assert accuracy == pytest.approx(expected[-1]["test_accuracy"], abs=1e-6)
    assert not np.allclose(logits["exact"], logits["expected"], rtol=0.01)


def test_a_method_that_samples_nothing_is_refused_before_it_trains(tmp_path):
    # 8 units are too few to choose among.
    own = config(tmp_path, size=8, approximate_layers="dense2")
    with pytest.raises(UserError, match="no layer of mnist_mlp is sampled"):
        train(mnist_mlp.TASK, own, "crs", 0, tmp_path)


def test_examples_come_once_an_epoch_in_an_order_set_by_seed_and_epoch(tmp_path):
    data = mnist_mlp.TASK.load(config(tmp_path))

    def labels(seed, epoch):
        batches = training_batches(mnist_mlp.TASK, data, 50, seed, epoch)
        return np.concatenate([y for _, y in batches.as_numpy_iterator()])

    np.testing.assert_array_equal(labels(0, 1), labels(0, 1))
    assert not np.array_equal(labels(0, 1), labels(0, 2))
    assert not np.array_equal(labels(0, 1), labels(1, 1))
    assert len(labels(0, 0)) == len(data.train) // 50 * 50


@pytest.mark.parametrize("padding", [2, 4])
def test_crops_are_shifts_within_the_padding_and_mirror_images(padding):
    x = tf.constant(np.arange(1, 37, dtype=np.uint8).reshape(1, 6, 6, 1))
    out = crop_and_flip(tf.repeat(x, 1000, 0), tf.constant([1, 2]), padding).numpy()[..., 0]
    padded = np.pad(x.numpy()[0, :, :, 0], padding)
    allowed = {
        padded[r : r + 6, c : c + 6][:, ::step].tobytes()
        for r in range(2 * padding + 1)
        for c in range(2 * padding + 1)
        for step in (1, -1)
    }
    # Each of at most 162 is missed by 1,000 draws with a chance of 0.2 % at most.
    assert {image.tobytes() for image in out} <= allowed
    assert len({image.tobytes() for image in out}) > 0.9 * len(allowed)


def test_a_comparison_writes_table_and_curves(tmp_path, capsys):
    own = config(tmp_path, methods=("exact", "crs", "meprop"), seeds=2, batch_size=200, epochs=1)
    rows = comparison.run_experiment(mnist_mlp.TASK, own)
    assert [(row.method, row.seeds) for row in rows] == [("exact", 2), ("crs", 2), ("meprop", 2)]
    assert rows[0].compute_reduction == 0
    assert rows[0].speedup == 1
    assert rows[1].compute_reduction == pytest.approx(0.5)
    assert rows[1].kept_mib < rows[0].kept_mib
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert (tmp_path / "comparison.md").read_text().count("\n") == 5
    saved = json.loads((tmp_path / "comparison.json").read_text())
    assert saved["config"]["sampling"]["forward_ratio"] == 0.5
    assert "meprop" in capsys.readouterr().out


def test_the_test_result_is_that_of_the_best_epoch_in_validation():
    from experiments.harness import _summarize

    records = [
        {
            "valid_accuracy": v,
            "test_accuracy": t,
            "seconds": 2.0,
            "cpu_seconds": 1.0,
            "steps": 4,
            "peak_memory_mib": 1.0,
            "compute_reduction": r,
        }
        for v, t, r in ((0.5, 0.9, 0.6), (0.8, 0.7, 0.6), (0.6, 1.0, 0.0))
    ]
    own = ExperimentConfig(pathlib.Path("unused"))
    model = mnist_mlp.mlp()
    segments = [{"steps": 4, "train_loss": 1.0, "step": 4}]
    result = _summarize(mnist_mlp.TASK, own, model, "exact", 0, records, segments)
    assert result.segments == [{"steps": 4, "train_loss": 1.0}]
    assert (result.test, result.step_seconds, result.step_cpu_seconds) == (0.7, 0.5, 0.25)
    assert result.compute_reduction == pytest.approx(0.4)
    rows = comparison.summarize(mnist_mlp.TASK, [result, dataclasses.replace(result, test=0.8)])
    assert rows[0].test == pytest.approx(75)
    assert rows[0].spread == pytest.approx(100 * np.std([0.7, 0.8], ddof=1))
    assert "| 75.00 (7.07) |" in comparison.markdown(mnist_mlp.TASK, rows)
    single = comparison.summarize(mnist_mlp.TASK, [result])
    assert "| 70.00 |" in comparison.markdown(mnist_mlp.TASK, single), "one seed has no spread"
    alone = dataclasses.replace(result, method="crs")
    table = comparison.markdown(mnist_mlp.TASK, comparison.summarize(mnist_mlp.TASK, [alone]))
    assert "| 40.00 % | - | - |" in table, "nothing exact to compare with"
    assert isinstance(result, Result)


def test_flags_become_a_configuration():
    values = flags.FlagValues()
    define_flags(values, forward_ratio=0.3)
    values(["binary", "--model_dir=/x", "--sampling=nps", "--scale=on", "--methods=exact,crs"])
    assert "inputs" not in values
    own = config_from_flags(values)
    assert own.sampling == Sampling("nps", 0.3, 1.0, 10, True)
    assert own.methods == ("exact", "crs")
    assert own.sampling_of("crs") == own.sampling_of("crs_exact_end") == own.sampling
    assert own.sampling_of("meprop").mode == "meprop"
    assert own.sampling_of("exact") is own.sampling_of("of another experiment") is None
    values(["binary", "--model_dir="])
    with pytest.raises(UserError, match="--model_dir"):
        config_from_flags(values)


def test_a_binary_explains_itself():
    command = [sys.executable, "-m", "experiments.mnist_mlp", "--help"]
    helped = subprocess.run(command, capture_output=True, text=True)
    assert "--forward_ratio: " in helped.stdout and "--[no]resume" in helped.stdout
    assert "Table" in helped.stdout


def test_a_binary_saves_its_flags_and_reports_mistakes_in_one_line(tmp_path, capsys):
    values = flags.FlagValues()
    define_flags(values)
    given = [f"--model_dir={tmp_path}", "--dataset=nowhere", f"--data_dir={tmp_path}"]
    values(["mnist_mlp", *given])
    assert binary.run(mnist_mlp.TASK, ["mnist_mlp"], values) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("mnist_mlp: ") and "train-images-idx3-ubyte.gz" in line
    saved = (tmp_path / "flags.txt").read_text()
    assert "--dataset=nowhere" in saved
    assert "--forward_ratio=0.4" in saved


def test_saved_flags_repeat_the_run(tmp_path):
    def parse(*args):
        values = flags.FlagValues()
        define_flags(values, cosine_decay=True, inputs=["pixels", "principal"])
        values(values.read_flags_from_files(["binary", *args]))
        return values, config_from_flags(values)

    given = ["--sampling=nps", "--scale=on", "--methods=exact,crs", "--seeds=2", "--cosine_decay"]
    given += ["--mixed_precision=mixed_bfloat16", "--evaluation=expected", "--inputs=principal"]
    values, first = parse(f"--model_dir={tmp_path}", *given)
    save_flags(values, first.model_dir)
    _, again = parse(f"--flagfile={tmp_path / 'flags.txt'}")
    assert again == first


def test_strategy_precision_and_compiler_hold_for_the_whole_training(tmp_path):
    policies = set()
    build = mnist_mlp.TASK.build

    def watched(own, data):
        model = build(own, data)
        policies.update(layer.compute_dtype for layer in model.layers[1:])
        return model

    task = dataclasses.replace(mnist_mlp.TASK, build=watched)
    fields = {"distribution_strategy": "mirrored", "mixed_precision": "mixed_bfloat16"}
    own = config(tmp_path, epochs=4, jit_compile=True, evaluation="expected", **fields)
    try:
        result = train(task, own, "crs", 0, tmp_path)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert policies == {"bfloat16"}
    assert result.test > 0.3
    with CcSession(str(tmp_path / "saved_model")) as session:
        logits = session.run({"inputs": np.zeros((3, 8, 8, 1), np.float32)})["logits"]
    assert logits.dtype == np.float32 and np.isfinite(logits).all()
