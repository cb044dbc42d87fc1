"""Programs end with one line and status 2 for a user's mistake, and save their flags."""

import pytest
from absl import flags

from experiments.command import run_command, save_flags
from tfapprox.errors import UserError


@pytest.mark.parametrize(
    "mistake, told",
    [
        (UserError("no such network"), "prog: no such network\n"),
        (PermissionError(13, "Permission denied", "out"), "prog: [Errno 13] Permission denied"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, mistake, told):
    def run():
        raise mistake

    assert run_command("prog", ["prog"], run) == 2
    error = capsys.readouterr().err
    assert error.startswith(told) and error.count("\n") == 1


def test_a_stray_argument_is_refused_before_anything_runs(capsys):
    ran = []
    assert run_command("prog", ["prog", "epochs=3"], lambda: ran.append(1)) == 2
    assert "unexpected argument 'epochs=3'" in capsys.readouterr().err
    assert not ran


def test_what_is_no_mistake_of_the_user_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command("prog", ["prog"], lambda: 1 / 0)


def test_flags_of_the_named_modules_are_saved_and_no_others(tmp_path):
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", "", "", flag_values=values, module_name="shared")
    flags.DEFINE_integer("epochs", 3, "", flag_values=values, module_name="shared")
    flags.DEFINE_string("network", "resnet20", "", flag_values=values, module_name="own")
    flags.DEFINE_bool("elsewhere", True, "", flag_values=values, module_name="other")
    values(["prog", "--model_dir=x", "--network=vgg19"])
    save_flags(values, tmp_path / "new")
    assert (tmp_path / "new" / "flags.txt").read_text() == "--model_dir=x\n--epochs=3\n"
    save_flags(values, tmp_path, of=("model_dir", "epochs", "network"))
    lines = (tmp_path / "flags.txt").read_text().splitlines()
    assert lines == ["--model_dir=x", "--epochs=3", "--network=vgg19"]
