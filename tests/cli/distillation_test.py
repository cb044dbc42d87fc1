"""`tfapprox compress --distill_steps`: factors that learn, from the command line."""

import json

import numpy as np
import pytest

from tfapprox.cli.compress_config import make_training
from tfapprox.cli.parser import parse
from tfapprox.training.distillation_config import DistillationConfig


def write_records(path, x):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in x:
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=row))
            features = tf.train.Features(feature={"x": feature})
            writer.write(tf.train.Example(features=features).SerializeToString())


def test_the_flags_reach_their_settings():
    flags = ("--distill_steps=5", "--distill_learning_rate=0.01", "--distill_batch_size=4")
    args = parse(
        ["tfapprox", "compress", "--dir=m", *flags, "--distribution_strategy=mirrored", "--seed=3"]
    )
    made = DistillationConfig(5, 0.01, 4, 3, "mirrored")
    assert make_training(args) == {"distillation": made}
    assert make_training(parse(["tfapprox", "compress", "--dir=m"])) == {}
    args = parse(["tfapprox", "compress", "--dir=m", "--refine_steps=7", "--distill_batch_size=4"])
    assert make_training(args) == {"refinement": DistillationConfig(7, batch_size=4)}


def test_factors_learn_from_records_and_labels_judge_them(tfapprox_run, model, tmp_path):
    x = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    write_records(tmp_path / "data.tfrecord", x)
    np.savez(tmp_path / "labelled.npz", x=x, labels=np.zeros(64, int))
    flags = (
        *("compress", "--dir", model, "--output_dir", tmp_path / "small", "--keep_macs", "0.12"),
        *("--calibration_data", tmp_path / "data.tfrecord", "--rank_multiple", "1"),
        *("--labels", tmp_path / "labelled.npz", "--distill_steps", "40"),
        *("--distill_learning_rate", "0.01", "--distill_batch_size", "16"),
        *("--work_dir", tmp_path / "work"),
    )
    status, out, err = tfapprox_run(*flags, "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    told = report["distillation"]
    assert told["error_after"] < told["error_before"] and told["best_step"] > 0
    assert report["verification"]["passed"] and 0 <= report["scores"]["after"] <= 1
    assert {path.name.split("-")[0] for path in (tmp_path / "work").iterdir()} == {
        "plan.json",
        "distillation",
    }
    status, out, _ = tfapprox_run(*flags, "--overwrite")
    assert status == 0 and "distilled for 40 steps" in out


def test_blocks_are_refined_and_their_errors_told(tfapprox_run, model, tmp_path):
    x = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    flags = (
        *("compress", "--dir", model, "--output_dir", tmp_path / "small", "--keep_macs", "0.12"),
        *("--calibration_data", tmp_path / "data.npz", "--rank_multiple", "1"),
        *("--refine_steps", "10", "--distill_batch_size", "16", "--calibration", "rectified"),
        *("--report", tmp_path / "page.html"),
    )
    status, out, err = tfapprox_run(*flags, "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["plan"]["settings"]["calibration"] == "rectified"
    assert report["refinement"]
    for block in report["refinement"]:
        assert block["training"]["error_after"] <= block["training"]["error_before"]
    assert "Refined block by block" in (tmp_path / "page.html").read_text()
    status, out, _ = tfapprox_run(*flags, "--overwrite")
    assert status == 0 and "Refined blocks" in out and "each by itself" in out


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [
        (("--refine_steps", "5"), "--calibration_data"),
        (("--refine_steps", "5", "--calibration_data", "x.npz", "--dry_run"), "--dry_run"),
        (
            ("--refine_steps", "5", "--calibration_data", "x.npz", "--distribution_strategy=none"),
            "--distill_steps",
        ),
        (("--distill_steps", "5"), "--calibration_data"),
        (("--distill_learning_rate", "0.1"), "--distill_steps"),
        (("--distribution_strategy", "none"), "--distill_steps"),
        (("--distill_steps", "5", "--calibration_data", "x.npz", "--dry_run"), "--dry_run"),
        (("--calibration_data", "nowhere:function"), "no function to import"),
        (("--calibration_data", "none.tfrecord"), "No such file"),
        (("--labels", "l.npy", "--calibration_data", "a.tfrecord"), "No such file"),
    ],
)
def test_what_can_not_be_trained_is_refused(refused, model, tmp_path, flags, culprit):
    target = tmp_path / "small"
    start = ("compress", "--dir", model, "--output_dir", target, "--keep_macs", "0.5")
    assert culprit in refused(*start, *flags)
    assert not target.exists()
