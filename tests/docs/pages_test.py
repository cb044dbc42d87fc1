"""What README and docs show is what happens: every block is run, every name is there."""

import argparse
import importlib.util
import pathlib
import re
import shlex

import pytest
from absl import flags

from experiments import config
from tests.docs.pages import PROGRAMS, ROOT, blocks, pages, run_page
from tfapprox import registry
from tfapprox.cli.parser import COMMANDS, Parser
from tfapprox.sampling.settings import MODES
from tfapprox.sampling.variants import VARIANTS

# Run by tests of their own, which provide more.
OWN_TESTS = {pathlib.Path("docs/serving.md"): "tests/docs/serving_test.py"}
NEEDS = {"docs/ecosystem.md": ("tfmot", "tensorflow_model_optimization")}
# Each command there made a table and took minutes to hours: only its program is checked.
RECORDS = ("docs/results", "docs/benchmarks")
RUNNABLE = [
    page
    for page in pages()
    if page not in OWN_TESTS
    and not str(page).startswith(RECORDS)
    and any(block.language in PROGRAMS and not block.not_run for block in blocks(page))
]


@pytest.mark.parametrize("page", RUNNABLE, ids=str)
def test_every_block_of_a_page_runs(page, reader):
    extra, module = NEEDS.get(str(page), ("", "tfapprox"))
    # Found, not imported: TFMOT would make every process started from here use tf_keras.
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs the extra {extra!r}")
    assert run_page(page, reader) > 0


def test_the_pages_that_matter_are_among_them():
    named = {str(page) for page in RUNNABLE}
    assert {"README.md", "docs/index.md", "docs/compressing.md", "docs/faq.md"} <= named
    for page, test in OWN_TESTS.items():
        assert (ROOT / test).is_file() and str(page.name) in (ROOT / test).read_text()


def test_what_is_not_run_says_why():
    skipped = [(page, block) for page in pages() for block in blocks(page) if block.not_run]
    assert len(skipped) <= 12
    for page, block in skipped:
        assert len(block.not_run.split()) >= 3, f"{page}:{block.line}"


@pytest.mark.parametrize("page", pages(), ids=str)
def test_code_is_fenced_with_its_language(page):
    text = (ROOT / page).read_text("utf-8")
    outside = re.sub(r"^(```+).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^(?: {4}|\t)(?:tfapprox|python|pip) .*", outside, re.MULTILINE)
    assert not indented or str(page).startswith(RECORDS), "put it into a fence, so that it is run"
    for block in blocks(page):
        first = block.text.split(maxsplit=1)[0] if block.text.strip() else ""
        runnable = first in ("tfapprox", "python", "pip", "import", "from")
        assert block.language or not runnable or str(page).startswith(RECORDS), block.line


@pytest.mark.parametrize("page", pages(), ids=str)
def test_programs_of_the_project_exist(page):
    text = (ROOT / page).read_text("utf-8")
    for module in re.findall(r"python -m ((?:experiments|benchmarks|tools)[\w.]*\w)", text):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("page", pages(), ids=str)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if re.match(r"[a-z]+:", target) or target.startswith("api/"):
            continue
        assert (ROOT / page.parent / target).exists(), target


def _flags():
    """Returns the flags of every command."""
    known = set()
    for command in COMMANDS.values():
        parser = Parser(prog="tfapprox")
        command.add_flags(parser)
        known |= {flag for action in parser._actions for flag in action.option_strings}
    assert isinstance(parser, argparse.ArgumentParser)
    return known


@pytest.mark.parametrize("page", ["README.md", "docs/compressing.md", "docs/choosing.md"])
def test_flags_in_the_text_exist(page):
    spoken = re.findall(r"(?<![\w-])--[a-z]\w+", (ROOT / page).read_text("utf-8"))
    others = {"--flagfile", "--help"}
    assert set(spoken) - others <= _flags()


def test_experiments_take_the_flags_of_the_commands_that_show_them():
    text = (ROOT / "docs" / "experiments.md").read_text("utf-8")
    commands = re.findall(r"`python -m experiments\.(\w+) (--[^`]+)`", text)
    assert len(commands) >= 8
    for name, words in commands:
        program = importlib.import_module(f"experiments.{name}")
        shared = program.define_flags is config.define_flags
        values = flags.FlagValues()
        program.define_flags(values, **({"cosine_decay": True} if shared else {}))
        assert values([name, *shlex.split(words)]) == [name], words


def test_every_method_is_in_the_table_that_helps_choose():
    text = (ROOT / "docs" / "choosing.md").read_text("utf-8")
    names = [*registry.DECOMPOSITIONS, *registry.SELECTORS, *registry.METRICS]
    missing = [name for name in names if f"`{name}`" not in text]
    assert not missing, "say in docs/choosing.md when to take it"


def test_modules_named_for_a_paper_s_equations_cite_it():
    text = (ROOT / "docs" / "index.md").read_text("utf-8")
    named = re.findall(r"\[`([\w.]+)`\]\(api/(\w+)\.md#tfapprox\.([\w.]+)\)", text)
    assert len(named) > 20
    for shown, page, module in named:
        assert shown == module and page == module.partition(".")[0]
        source = ROOT / "tfapprox" / f"{module.replace('.', '/')}.py"
        assert "Reference" in source.read_text("utf-8"), module


def test_what_is_listed_by_paper_is_there():
    text = (ROOT / "docs" / "index.md").read_text("utf-8")
    section = text.partition("## By paper")[2].partition("\n## ")[0]
    for program in re.findall(r"`(experiments\.\w+)`", section):
        assert importlib.util.find_spec(program), program
    names = set(re.findall(r"`([a-z0-9_]+)`", section))
    methods = {*registry.DECOMPOSITIONS, *registry.SELECTORS, *registry.METRICS, *registry.PRUNINGS}
    assert names <= {*methods, *VARIANTS, *MODES, "slice_generator"}
    # "uniform" and its like are nobody's.
    assert {*registry.DECOMPOSITIONS, *registry.PRUNINGS} <= names
