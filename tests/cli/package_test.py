"""`tfapprox package`: a version for TF Serving, told as text and as JSON."""

import json
import os


def test_version_is_laid_out_and_told(tfapprox_run, refused, model, tmp_path):
    command = ("package", "--dir", model, "--model_name", "net", "--base_path", tmp_path)
    status, out, err = tfapprox_run(*command, "--version", "3")
    assert (status, err) == (0, "")
    assert str(tmp_path / "net" / "3") in out and f"--model_base_path={tmp_path / 'net'}" in out
    assert os.path.isfile(tmp_path / "net" / "3" / "saved_model.pb")

    status, out, _ = tfapprox_run(*command, "--json")
    assert status == 0
    assert json.loads(out) == {
        "model_name": "net",
        "version": 4,
        "path": str(tmp_path / "net" / "4"),
        "model_base_path": str(tmp_path / "net"),
    }
    assert "--version 5" in refused(*command, "--version", "4")


def test_wrong_use_is_refused(refused, model, tmp_path):
    command = ("package", "--dir", model, "--base_path", tmp_path)
    assert "--model_name" in refused(*command)
    assert "'0'" in refused(*command, "--model_name", "net", "--version", "0")
    assert "a/b" in refused(*command, "--model_name", "a/b")
