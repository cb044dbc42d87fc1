import importlib.util
import json

import pytest
from absl import flags

from experiments import combine_mnist

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_model_optimization") is None,
    reason="TFMOT is not installed: pip install 'tfapprox[tfmot]'",
)


def values_of(*arguments):
    values = flags.FlagValues()
    combine_mnist.define_flags(values)
    values(["combine_mnist", *arguments])
    return values


def test_the_table_and_the_wrong_orders_are_written_and_shown(tmp_path, capsys):
    values = values_of(
        f"--model_dir={tmp_path}", "--units=32", "--epochs=1", "--tune_epochs=1",
        "--quantization=post_training",
    )  # fmt: skip
    assert combine_mnist.main(["combine_mnist"], values) == 0
    assert "--units=32\n" in (tmp_path / "flags.txt").read_text()
    body = json.loads((tmp_path / "result.json").read_text())
    assert [step["name"] for step in body["steps"]] == [
        "original", "factorize", "prune", "cluster", "int8",
    ]  # fmt: skip
    pruned, clustered = body["wrong_orders"]
    assert pruned["zeros_before"] > 0.49 and pruned["zeros_after"] < 0.4
    assert clustered["distinct_before"] == 16 and clustered["distinct_after"] > 100
    assert (tmp_path / "result.md").read_text().count("\n") == 7
    assert "prune, then factorize" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["--keep_params=2", "--sparsity=1.5", "--clusters=1"])
def test_wrong_settings_are_told_before_anything_is_trained(wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(combine_mnist, "_trained", None)
    assert combine_mnist.main(["combine_mnist"], values_of(f"--model_dir={tmp_path}", wrong)) == 2
    assert capsys.readouterr().err.startswith("combine_mnist: ")


def test_missing_tfmot_is_told_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(combine_mnist.importlib.util, "find_spec", lambda name: None)
    assert combine_mnist.main(["combine_mnist"], values_of(f"--model_dir={tmp_path}")) == 2
    assert "pip install '.[experiments,tfmot]'" in capsys.readouterr().err


def test_a_missing_folder_is_one_line(capsys):
    assert combine_mnist.main(["combine_mnist"], values_of()) == 2
    assert "--model_dir is required" in capsys.readouterr().err
