"""The command line explains itself and refuses what it does not know."""

import importlib.util
import subprocess
import sys

import pytest
from absl import flags

import tfapprox
from tfapprox import registry
from tfapprox.cli.parser import COMMANDS, Parser, parse


def help_of(capsys, *command):
    with pytest.raises(SystemExit) as stop:
        parse(["tfapprox", *command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_command_and_the_exit_statuses(capsys):
    text = help_of(capsys)
    assert all(name in text for name in COMMANDS)
    assert "exit status" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_its_flags_and_examples(capsys, command):
    text = help_of(capsys, command)
    assert "--dir" in text and "--json" in text
    assert "\nexamples:\n" in text and f"  tfapprox {command} --dir" in text  # fmt: skip


def test_examples_in_the_help_parse():
    for command in COMMANDS.values():
        for line in command.EXAMPLES.splitlines():
            words = line.split(">")[0].split()
            if words[:1] == ["tfapprox"]:
                assert parse(words).command is command


def test_help_of_compress_lists_what_the_registry_holds(capsys):
    text = " ".join(help_of(capsys, "compress").split())
    for table in (registry.SELECTORS, registry.DECOMPOSITIONS, registry.METRICS):
        assert ", ".join(table) in text


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        parse(["tfapprox", "--version"])
    assert capsys.readouterr().out == f"tfapprox {tfapprox.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "culprit"),
    [
        ([], "COMMAND"),
        (["shrink"], "shrink"),
        (["inspect"], "--dir"),
        (["inspect", "--dir", "m", "--colour"], "unknown flag --colour (see tfapprox inspect"),
        (["inspect", "--dir", "m", "small"], "unexpected argument 'small'"),
        (["inspect", "--dir", "m", "--tag_set", "a,,b"], "'a,,b'"),
        (["compress", "--dir", "m", "--keep_macs", "half"], "half"),
        (["compress", "--dir", "m", "--keep_macs", "0.5", "--max_error", "0.1"], "--max_error"),
        (["compress", "--dir", "m", "--keep_mac", "0.5"], "did you mean --keep_macs?"),
        (["compress", "--dir", "m", "--keep-params=0.5"], "--keep-params: did you mean --keep_p"),
        (["compress", "--dir", "m", "--schemes", "0;1"], "0;1"),
        (["compress", "--dir", "m", "--rank_multiple", "0"], "'0'"),
        (["benchmark", "--dir", "m", "--against", "n", "--batch_size", "1,0"], "'0'"),
    ],
)
def test_wrong_use_is_told_in_one_line(capsys, argv, culprit):
    with pytest.raises(SystemExit) as stop:
        parse(["tfapprox", *argv])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tfapprox: error: ") and culprit in line


def test_flags_of_the_surrounding_program_are_no_obstacle():
    surrounding = flags.FlagValues()
    flags.DEFINE_string("output_dir", "theirs", "Another program's.", flag_values=surrounding)
    parser = Parser(inherited_absl_flags=surrounding)
    parser.add_argument("--output_dir")
    assert parser.parse_args(["--output_dir=ours"]).output_dir == "ours"


def test_lists_are_parsed():
    args = parse(
        ["tfapprox", "compress", "--dir=m", "--tag_set=serve,gpu", "--slices=1,2", "--schemes=3"]
    )
    assert (args.tag_set, args.slices, args.schemes) == (("serve", "gpu"), (1, 2), (3,))


def test_the_program_starts_without_tensorflow_and_scipy():
    # What answers in a fraction of a second must not load what takes seconds.
    code = (
        "import sys; from tfapprox.cli.parser import parse\n"
        "try: parse(['tfapprox', '--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'tensorflow', 'keras', 'scipy', 'rich', 'matplotlib', 'jinja2'}\n"
        "print(slow & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


@pytest.mark.skipif(
    importlib.util.find_spec("shtab") is None,
    reason="shtab is not installed: pip install 'tfapprox[completion]'",
)
def test_completion_knows_every_command_and_its_flags():
    command = [sys.executable, "-m", "shtab", "--shell=bash", "tfapprox.cli.parser.make_parser"]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "complete -o" in script
    for word in (*COMMANDS, "--keep_macs", "--base_path"):
        assert word in script
