"""The wheel holds the package, whole, and runs where the checkout is not."""

import ast
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile

import pytest

import tfapprox
from tools.imports import imports_of

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "absl": "absl-py",
    "google": "protobuf",
    "keras": "tensorflow",
    "sklearn": "scikit-learn",
    "tensorflow_model_optimization": "tensorflow-model-optimization",
    "grpc": "grpcio",
    "tensorflow_serving": "tensorflow-serving-api",
}


def run(*command, cwd):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds from a copy, so that nothing generated is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tfapprox", source / "tfapprox", ignore=ignored)
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", "dist")
    run(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_wheel_holds_every_module_and_data_file_and_nothing_else(wheel):
    built = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (p for p in (ROOT / "tfapprox").rglob("*") if p.is_file())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.name != "BUILD" and "__pycache__" not in path.parts
    }
    assert built == wanted


def test_wheel_carries_the_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("LICENSE") for name in names)


def test_installed_program_runs_outside_the_checkout(wheel, tmp_path):
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", str(environment), cwd=tmp_path)
    (site,) = environment.glob("lib/python*/site-packages")
    # The dependencies of this interpreter, without its editable installs: a .pth
    # file's directories are not searched for .pth files.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = str(environment / "bin" / "python")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run(*pip, "--quiet", str(wheel), cwd=tmp_path)
    where = run(python, "-c", "import tfapprox; print(tfapprox.__file__)", cwd=tmp_path)
    assert pathlib.Path(where.strip()).is_relative_to(site)
    program = str(environment / "bin" / "tfapprox")
    assert run(program, "--version", cwd=tmp_path) == f"tfapprox {tfapprox.__version__}\n"
    assert "--keep_macs" in run(program, "compress", "--help", cwd=tmp_path)


def declared(requirements):
    names = (name_of(requirement) for requirement in requirements)
    return {name.lower().replace("_", "-") for name in names}


def name_of(requirement):
    end = next((i for i, c in enumerate(requirement) if c in "<>=!~[; "), len(requirement))
    return requirement[:end]


def foreign_libraries(folder):
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for needed in imports_of(path):
            library = needed.module.split(".")[0]
            if not needed.files(ROOT) and library not in sys.stdlib_module_names:
                found.setdefault(DISTRIBUTIONS.get(library, library).replace("_", "-"), path)
    return found


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("tfapprox", ("report", "serving", "tfmot", "experiments", "tensorboard")),
        ("experiments", ("report", "experiments", "datasets", "tensorboard", "cluster")),
        ("tools", ("dev", "docs")),
        (
            "tests",
            (
                "report",
                "serving",
                "onnx",
                "openvino",
                "experiments",
                "datasets",
                "tensorboard",
                "cluster",
                "dev",
                "docs",
                "tfmot",
            ),
        ),
    ],
)
def test_every_imported_library_is_declared(folder, extras):
    optional = PROJECT["optional-dependencies"]
    known = declared(PROJECT["dependencies"]).union(*(declared(optional[e]) for e in extras))
    strangers = {k: str(v) for k, v in foreign_libraries(folder).items() if k not in known}
    assert not strangers


def test_libraries_of_extras_are_loaded_lazily_only():
    required = declared(PROJECT["dependencies"])
    eager = [
        (needed.module, path.name)
        for path in (ROOT / "tfapprox").rglob("*.py")
        for needed in imports_of(path)
        if not needed.lazy and not needed.files(ROOT)
        for library in [needed.module.split(".")[0]]
        if library not in sys.stdlib_module_names
        and DISTRIBUTIONS.get(library, library).replace("_", "-") not in required
    ]
    assert not eager


def test_public_names_are_there_and_are_what_type_checkers_see():
    tree = ast.parse((ROOT / "tfapprox" / "__init__.py").read_text())
    shown = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("tfapprox")
        for alias in node.names
    }
    assert sorted(shown) == sorted(tfapprox.__all__)
    assert shown == tfapprox._HOMES
