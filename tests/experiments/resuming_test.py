"""A training that is really killed goes on as if nothing had happened."""

import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from experiments import binary, mnist_cnn, mnist_mlp, ptb_lstm
from experiments.config import ExperimentConfig, define_flags
from experiments.harness import train
from experiments.resumable_training import training_batches
from experiments.training_log import RecordFile, merge, tensorboard
from tfapprox.sampling.settings import Sampling

LOSSES = ("train_loss", "valid_loss", "test_loss")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# Runs a binary as `python -m` does, and kills it a while after it has written some segments. It
# does so itself: from outside, a busy machine would let the training end first.
KILLED = """
import os, runpy, signal, sys, threading
from experiments.training_log import RecordFile

module, segments, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
append = RecordFile.append

def counted(file, record):
    append(file, record)
    if len(file.records) == segments:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

RecordFile.append = counted
sys.argv = [module, *sys.argv[4:]]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def test_a_binary_killed_at_a_random_moment_goes_on_exactly_as_it_would_have(tmp_path):
    killed, chance = tmp_path / "killed", random.Random(0)
    given = ["--dataset=digits", "--sampling=nps", "--scale=on", "--size=16", "--batch_size=40"]
    given += ["--forward_ratio=0.5", "--steps=45", "--checkpoint_steps=3", "--seed=5"]
    given += [f"--model_dir={killed}"]
    moment = [str(chance.randint(2, 8)), str(chance.uniform(0, 0.05))]
    command = [sys.executable, "-c", KILLED, "experiments.mnist_cnn", *moment, *given]
    done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    assert done.returncode == -signal.SIGKILL
    segments = killed / "segments.jsonl"
    before = len(read(segments))
    values = flags.FlagValues()
    define_flags(values)
    values(["mnist_cnn", *given, "--resume"])
    assert binary.run(mnist_cnn.TASK, ["mnist_cnn"], values) == 0

    fields = {"size": 16, "batch_size": 40, "steps": 45, "checkpoint_steps": 3, "seed": 5}
    own = ExperimentConfig(tmp_path / "whole", sampling=Sampling("nps", 0.5, scale=True), **fields)
    whole = train(mnist_cnn.TASK, own, "crs", 5, tmp_path / "whole")
    assert before < 15, "killed too late to show anything"
    assert len(read(segments)) == 30 // 3 + 15 // 3  # of the two epochs
    for ours, theirs in zip(read(killed / "metrics.jsonl"), whole.history, strict=True):
        assert [ours[key] for key in LOSSES] == [theirs[key] for key in LOSSES]


def language_model(folder, **more):
    fields = {"dataset": "synthetic", "size": 32, "batch_size": 20, "epochs": 2, **more}
    return ExperimentConfig(folder, checkpoint_steps=4, sampling=Sampling("nps", 0.5), **fields)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a language model comes to that is trained at one go."""
    folder = tmp_path_factory.mktemp("whole")
    return train(ptb_lstm.TASK, language_model(folder), "crs", 1, folder)


@pytest.mark.parametrize("cut", ["in an epoch", "between epochs"])
def test_a_language_model_goes_on_with_its_recurrent_states(cut, whole, tmp_path, monkeypatch):
    calls = []

    def batches(*args):
        calls.append(args)
        if len(calls) > (2 if cut == "in an epoch" else 4):
            raise KeyboardInterrupt
        return training_batches(*args)

    monkeypatch.setattr("experiments.resumable_training.training_batches", batches)
    with pytest.raises(KeyboardInterrupt):
        train(ptb_lstm.TASK, language_model(tmp_path), "crs", 1, tmp_path / "parts")
    monkeypatch.undo()
    rest = language_model(tmp_path, resume=True)
    parts = train(ptb_lstm.TASK, rest, "crs", 1, tmp_path / "parts")
    for ours, theirs in zip(parts.history, whole.history, strict=True):
        assert [ours[key] for key in LOSSES] == [theirs[key] for key in LOSSES]


def test_records_survive_a_line_cut_short_and_leave_out_what_comes_again(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3, "tes')
    records = RecordFile(path, lambda record: record["epoch"] <= 1)
    records.append({"epoch": 2, "loss": 0.5})
    assert records.records == read(path) == [{"epoch": 1}, {"epoch": 2, "loss": 0.5}]


def test_segments_add_up_to_their_epoch():
    def segment(steps, loss, memory):
        return {
            "epoch": 1,
            "step": 0,
            "steps": steps,
            "seconds": 1.0,
            "cpu_seconds": 2.0,
            "peak_memory_mib": memory,
            "train_loss": loss,
            "compute_reduction": 0.5,
        }

    merged = merge([segment(3, 1.0, 7.0), segment(1, 5.0, 6.0)])
    assert merged == {
        "epoch": 1,
        "steps": 4,
        "seconds": 2.0,
        "cpu_seconds": 4.0,
        "peak_memory_mib": 7.0,
        "train_loss": 2.0,
        "compute_reduction": 0.5,
    }


def test_later_batches_of_an_epoch_are_those_of_the_whole(tmp_path):
    data = mnist_mlp.TASK.load(ExperimentConfig(tmp_path))

    def labels(start):
        batches = training_batches(mnist_mlp.TASK, data, 50, 0, 1, start)
        return np.concatenate([y for _, y in batches.as_numpy_iterator()])

    np.testing.assert_array_equal(labels(4), labels(0)[200:])


def test_tensorboard_gets_every_number_of_an_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    with tensorboard(tmp_path) as write:
        write({"epoch": 1, "test_accuracy": 0.5})
        write({"epoch": 2, "test_accuracy": 0.75})
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = {}
    for raw in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(raw.numpy())
        for value in event.summary.value:
            found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    assert found[("test_accuracy", 1)] == 0.5
    assert found[("test_accuracy", 2)] == 0.75


def test_tensorboard_shows_ratios_and_kept_channels_of_a_sampled_training(tmp_path):
    pytest.importorskip("tensorboard")
    own = ExperimentConfig(tmp_path, size=32, epochs=1, sampling=Sampling(forward_ratio=0.5))
    for method in ("crs", "exact"):
        train(mnist_mlp.TASK, own, method, 0, tmp_path / method)
    (file,) = (tmp_path / "crs" / "tensorboard" / "sampling").iterdir()
    tags = set()
    for raw in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(raw.numpy())
        tags |= {(value.tag, event.step) for value in event.summary.value}
    for name in ("forward_ratio", "kept_share", "kept_channels"):
        assert (f"{name}/dense1", 1) in tags
    assert not (tmp_path / "exact" / "tensorboard" / "sampling").exists()
