"""`tfapprox compress`: the main job from the command line, and everything it refuses."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tfapprox import registry
from tfapprox.cli.compress import make_config
from tfapprox.cli.parser import parse
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.selection.problem import Budget
from tfapprox.serving.cc_loader import CcSession


def config_of(*flags):
    return make_config(parse(["tfapprox", "compress", "--dir=m", *flags]))


def test_flags_left_out_leave_the_settings_as_the_library_has_them():
    assert config_of("--keep_macs=0.5") == CompressionConfig(Budget("macs", keep=0.5))


def test_every_flag_reaches_its_setting():
    config = config_of(
        *("--keep_params=0.25", "--selector=energy", "--metric=frobenius", "--seed=7"),
        *("--include=block", "--exclude=head", "--decompositions=svd"),
        *("--schemes=0,2", "--slices=1,4", "--rank_multiple=4"),
    )
    assert config == CompressionConfig(
        Budget("params", keep=0.25),
        selector="energy",
        metric="frobenius",
        include="block",
        exclude="head",
        candidates=CandidateOptions(schemes=(0, 2), slices=(1, 4), rank_multiple=4),
        seed=7,
    )
    assert config_of("--max_error=0.1").budget == Budget("macs", max_error=0.1)


def test_all_decompositions_may_be_named_at_once():
    config = config_of("--keep_macs=0.5", "--decompositions=all")
    assert config.decompositions == tuple(registry.DECOMPOSITIONS)


def test_latency_is_a_budget_and_an_objective():
    assert config_of("--keep_latency=0.7", "--batch_size=8") == CompressionConfig(
        Budget("latency", keep=0.7), batch_size=8
    )
    assert config_of("--max_latency_ms=2.5").budget == Budget("latency", limit=2.5e6)
    bounded = config_of("--max_error=0.1", "--objective=latency")
    assert bounded.budget == Budget("latency", max_error=0.1) and bounded.faster
    assert config_of("--keep_macs=0.5", "--objective=latency").measures_latency
    assert not config_of("--keep_macs=0.5").measures_latency


def test_smaller_model_is_written_with_plan_and_page(tfapprox_run, model, inputs, tmp_path):
    target, plan, page = (tmp_path / name for name in ("small", "plan.json", "page.html"))
    status, out, err = tfapprox_run(
        *("compress", "--dir", model, "--output_dir", target, "--keep_macs", "0.5", "--json"),
        *("--calibration_data", inputs, "--save_plan", plan, "--report", page),
        *("--tensorboard", tmp_path / "log"),
    )
    assert (status, err) == (0, "")
    assert [p for p in (tmp_path / "log").iterdir() if "tfevents" in p.name]
    report = json.loads(out)
    assert report["after"]["macs"] <= 0.5 * report["before"]["macs"]
    assert report["verification"]["passed"] is True
    assert "<html" in page.read_text()
    x = np.load(inputs)["x"]
    with CcSession(model) as dense, CcSession(str(target)) as small:
        want, got = dense.run({"x": x})["y"], small.run({"x": x})["y"]
    # The kernel has rank 8 but for noise of 1e-3 on entries of about 0.04.
    assert np.linalg.norm(got - want) < 0.1 * np.linalg.norm(want)


def test_saved_plan_can_be_edited_and_applied(tfapprox_run, model, tmp_path):
    plan = tmp_path / "plan.json"
    flags = ("--keep_macs", "0.5", "--dry_run", "--save_plan", plan, "--json")
    status, out, err = tfapprox_run("compress", "--dir", model, *flags)
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(plan.read_text())
    body = json.loads(plan.read_text())
    body["sites"][0]["choice"]["rank"] = 16
    plan.write_text(json.dumps(body))
    target = tmp_path / "small"
    flags = ("--output_dir", target, "--plan", plan, "--json")
    status, out, err = tfapprox_run("compress", "--dir", model, *flags)
    assert (status, err) == (0, "")
    (wide, _) = json.loads(out)["plan"]["sites"]
    assert wide["after"]["macs"] == 16 * (64 + 96)


def test_dry_run_writes_no_model(tfapprox_run, model, tmp_path):
    target = tmp_path / "small"
    flags = ("--output_dir", target, "--keep_macs", "0.5", "--dry_run")
    status, out, err = tfapprox_run("compress", "--dir", model, *flags)
    assert (status, err) == (0, "")
    assert "wide" in out and "written" not in out and not target.exists()


def test_what_was_written_is_told(tfapprox_run, model, tmp_path):
    target, plan = tmp_path / "small", tmp_path / "plan.json"
    flags = ("--output_dir", target, "--keep_macs", "0.5", "--save_plan", plan)
    status, out, _ = tfapprox_run("compress", "--dir", model, *flags)
    assert (status, out.splitlines()[-1]) == (0, f"written: {target}, {plan}")


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [
        ((), "give a budget"),
        (("--keep_macs", "1.5"), "--keep_macs must be in (0, 1]"),
        (("--keep_params", "0"), "--keep_params must be in (0, 1]"),
        (("--keep_latency", "1.1"), "--keep_latency must be in (0, 1]"),
        (("--max_latency_ms", "0"), "--max_latency_ms must be above 0"),
        (("--keep_macs", "nan"), "--keep_macs must be in (0, 1]"),
        (("--max_error", "-1"), "max_error"),
        (("--keep_macs", "0.5", "--selector", "guess"), "guess"),
        (("--keep_macs", "0.5", "--decompositions", "svd,lu"), "lu"),
        (("--keep_macs", "0.5", "--metric", "max"), "max"),
        (("--keep_macs", "0.5", "--schemes", "4"), "schemes"),
        (("--keep_macs", "0.5", "--slices", "0"), "slices"),
        (("--keep_macs", "0.5", "--include", "("), "--include"),
        (("--keep_macs", "0.5", "--include", "zebra"), "zebra"),
        (("--keep_macs", "0.5", "--save_plan", "/no/folder/plan.json"), "/no/folder"),
        (("--keep_macs", "0.5", "--dry_run", "--report", "page.html"), "--report"),
        (("--keep_macs", "0.5", "--dry_run", "--tensorboard", "log"), "--tensorboard"),
        (("--keep_macs", "0.5", "--calibration_data", "/no/file.npz"), "/no/file.npz"),
        (("--keep_macs", "0.5", "--plan", "plan.json"), "drop --plan"),
        (("--selector", "alds", "--plan", "plan.json"), "selector"),
        (("--plan", "/no/plan.json"), "/no/plan.json"),
        (("--keep_macs", "0.001"), "0.0"),
    ],
)
def test_bad_flags_are_refused(refused, model, tmp_path, flags, culprit):
    target = tmp_path / "small"
    assert culprit in refused("compress", "--dir", model, "--output_dir", target, *flags)
    assert not target.exists()


def test_target_is_required_and_respected(refused, model, tmp_path):
    budget = ("--keep_macs", "0.5")
    assert "--output_dir" in refused("compress", "--dir", model, *budget)
    assert "overlaps" in refused("compress", "--dir", model, "--output_dir", model, *budget)
    (tmp_path / "mine.txt").touch()
    message = refused("compress", "--dir", model, "--output_dir", tmp_path, *budget, "--overwrite")
    assert "will not" in message and (tmp_path / "mine.txt").exists()


def test_damaged_source_is_refused(refused, model, tmp_path):
    flags = ("--output_dir", tmp_path / "small", "--keep_macs", "0.5")
    for file in ("saved_model.pb", "variables/variables.data-00000-of-00001"):
        damaged = tmp_path / file.replace("/", "_")
        shutil.copytree(model, damaged)
        whole = (damaged / file).read_bytes()
        (damaged / file).write_bytes(whole[: len(whole) // 2])
        assert str(damaged) in refused("compress", "--dir", damaged, *flags)
    assert not (tmp_path / "small").exists()


def test_plan_of_another_model_is_refused(refused, tfapprox_run, model, tmp_path):
    plan = tmp_path / "plan.json"
    flags = ("--keep_macs", "0.5", "--dry_run", "--save_plan", plan)
    tfapprox_run("compress", "--dir", model, *flags)
    text = plan.read_text()
    plan.write_text(text.replace("wide", "broad"))
    apply = ("compress", "--dir", model, "--output_dir", tmp_path / "small", "--plan", plan)
    assert "broad" in refused(*apply)
    plan.write_text(text[:-20])
    assert "not JSON" in refused(*apply)
    assert not pathlib.Path(tmp_path / "small").exists()
