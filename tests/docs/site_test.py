"""The documentation's site can be built, without a warning, and holds the whole API."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="needs the extra 'docs'")
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--site-dir", str(target)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def test_every_page_is_there(site):
    for page in (ROOT / "docs").rglob("*.md"):
        path = site / page.relative_to(ROOT / "docs").with_suffix(".html")
        assert path.is_file()


def test_the_reference_is_generated_from_the_docstrings(site):
    import tfapprox
    from tools.docs_pages import packages, public_modules

    front = (site / "api" / "index.html").read_text()
    for name in tfapprox.__all__:
        assert f".{name}" in front, name
    for package in packages():
        page = (site / "api" / f"{package}.html").read_text()
        for module in public_modules(package):
            assert module in page
    assert "with_fewer_sites" in (site / "api" / "compression.html").read_text()
    assert "_attempt" not in (site / "api" / "compression.html").read_text()
