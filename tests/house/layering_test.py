"""Imports point down: numpy strata, then TensorFlow ones, then plumbing, then the program."""

import pathlib
import sys

import pytest

from tools.imports import imports_of, modules_loaded_by

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "tfapprox"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module imports from its own stratum and from lower ones.
STRATA = (
    {"errors", "accounting", "calibration", "decompositions", "metrics", "pruning"}
    | {"selection", "sampling"}
    | {"config", "registry", "fitting", "printable", "progress"},
    {"ops"},
    {"layers"},
    {"rewriters", "serving", "planning", "slice_planning", "factorizing"},
    {"report", "training"},
    {"compression"},
    {"combining"},
    {"cli", "__main__"},
)
NUMERIC_LIBRARIES = {"numpy", "scipy", "sklearn", "threadpoolctl"}
SLOW_TO_LOAD = {"tensorflow", "keras", "tf_keras", "sklearn", "matplotlib", "jinja2"}


def unit(path: pathlib.Path) -> str:
    """The first name below tfapprox: a package's folder or a module's stem."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def stratum(path: pathlib.Path) -> int:
    if path == PACKAGE / "__init__.py":
        return 0  # whoever imports anything imports this; see the test of its emptiness
    return next(i for i, names in enumerate(STRATA) if unit(path) in names)


def identify(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_module_has_a_stratum():
    known = set().union(*STRATA)
    strangers = {unit(p) for p in MODULES if p != PACKAGE / "__init__.py"} - known
    assert not strangers, f"say in STRATA where {strangers} belong"


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        pytest.skip("names what every stratum offers, lazily")
    upward = [
        (needed.module, identify(file))
        for needed in imports_of(path)
        for file in needed.files(ROOT)
        if stratum(file) > stratum(path)
    ]
    assert not upward


@pytest.mark.parametrize("path", [p for p in MODULES if stratum(p) == 0], ids=identify)
def test_numeric_strata_know_numeric_libraries_alone(path):
    libraries = {
        needed.module.split(".")[0] for needed in imports_of(path) if not needed.files(ROOT)
    }
    assert libraries <= set(sys.stdlib_module_names) | NUMERIC_LIBRARIES


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_the_package_never_imports_what_surrounds_it(path):
    outside = {"tests", "tools", "experiments", "benchmarks"}
    assert not [i.module for i in imports_of(path) if i.module.split(".")[0] in outside]


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if unit(p) in ("__init__", "__main__", "cli", "config", "errors")],
    ids=identify,
)
def test_the_program_starts_without_slow_libraries(path):
    loaded = modules_loaded_by(path, ROOT)
    assert not {m: by for m, by in loaded.items() if m.split(".")[0] in SLOW_TO_LOAD}


def circles() -> list[set[str]]:
    """The sets of modules that need each other, lazily or not, by Tarjan's algorithm."""
    modules = [path for path in MODULES if path.name != "__init__.py"]
    needs = {
        path: {file for i in imports_of(path) for file in i.files(ROOT) if file in modules}
        for path in modules
    }
    number: dict[pathlib.Path, int] = {}
    lowest: dict[pathlib.Path, int] = {}
    open_modules: list[pathlib.Path] = []
    found = []

    def visit(module):
        number[module] = lowest[module] = len(number)
        open_modules.append(module)
        for needed in needs[module]:
            if needed not in number:
                visit(needed)
            if needed in open_modules:
                lowest[module] = min(lowest[module], lowest[needed])
        if lowest[module] == number[module]:
            position = open_modules.index(module)
            found.append({identify(m) for m in open_modules[position:]})
            del open_modules[position:]

    for module in modules:
        if module not in number:
            visit(module)
    return [circle for circle in found if len(circle) > 1]


def test_no_modules_need_each_other():
    # Not even lazily: Bazel could not build them.
    assert not circles()


def test_tfmot_is_never_loaded_with_the_package():
    # Importing it switches the whole process to legacy Keras.
    offenders = [
        identify(path)
        for path in MODULES
        for needed in imports_of(path)
        if needed.module.startswith("tensorflow_model_optimization") and not needed.lazy
    ]
    assert not offenders
