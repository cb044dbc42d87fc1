"""The committed BUILD files say what the sources and their imports say."""

import pathlib

import pytest

from tools.build_files import TOPS, render
from tools.imports import imports_of

ROOT = pathlib.Path(__file__).parents[2]
EXPECTED = render(ROOT)


@pytest.mark.parametrize("path", sorted(EXPECTED))
def test_build_file_matches_sources_and_imports(path):
    file = ROOT / path
    assert file.is_file() and file.read_text() == EXPECTED[path], "run `make build-files`"


def test_no_build_file_stands_where_nothing_is_built():
    found = {p.relative_to(ROOT).as_posix() for top in TOPS for p in (ROOT / top).rglob("BUILD")}
    assert found <= set(EXPECTED)


def test_no_test_imports_from_a_test_of_another_folder():
    # That one's target is visible in its own folder only.
    for path in (ROOT / "tests").rglob("*_test.py"):
        needed = {file for one in imports_of(path) for file in one.files(ROOT)}
        foreign = {f for f in needed if f.name.endswith("_test.py") and f.parent != path.parent}
        assert not foreign, f"{path}: put what they share into a module that is no test"


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_dependencies_visibility_and_data_come_from_the_source(tmp_path):
    write(
        tmp_path,
        {
            "tfapprox/__init__.py": "",
            "tfapprox/a/__init__.py": "",
            "tfapprox/a/low.py": "import numpy\nPAGE = 'page.html'\n",
            "tfapprox/a/page.html": "",
            "tfapprox/b/high.py": "def f():\n    from tfapprox.a import low\n    import keras\n",
            "tests/b/high_test.py": "from tfapprox.b.high import f\n",
            "tests/conftest.py": "",
        },
    )
    texts = render(tmp_path)
    assert 'data = ["page.html"]' in texts["tfapprox/a/BUILD"]
    assert 'visibility = ["//tfapprox/b:__pkg__"]' in texts["tfapprox/a/BUILD"]
    high = texts["tfapprox/b/BUILD"]
    for label in ('"//tfapprox/a:low"', '"//tfapprox/a"', '"//tfapprox"'):
        assert label in high
    test = texts["tests/b/BUILD"]
    assert '"//tfapprox/b:high"' in test and 'size = "large"' in test


def test_no_two_targets_of_a_package_share_a_name(tmp_path):
    write(tmp_path, {"tfapprox/a/__init__.py": "", "tfapprox/a/a.py": "import tfapprox.a\n"})
    text = render(tmp_path)["tfapprox/a/BUILD"]
    assert text.count('name = "a"') == 1 and 'deps = [":init"]' in text


def test_an_init_that_lists_public_names_makes_no_circle(tmp_path):
    write(
        tmp_path,
        {
            "tfapprox/a/__init__.py": "from tfapprox.a.low import f\n",
            "tfapprox/a/low.py": "def f():\n    pass\n",
        },
    )
    low, init = render(tmp_path)["tfapprox/a/BUILD"].split('name = "low"')[::-1]
    assert 'deps = [":low"]' in init and "deps" not in low
