import importlib

import pytest

from benchmarks.suite import BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_explains_itself_and_takes_the_suite_s_flags(name, monkeypatch, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert module.__doc__.splitlines()[0] in text
    assert all(flag in text for flag in ("--quick", "--output", "--threads", "--json"))
