"""Writes the BUILD files from the source files and their imports.

`python -m tools.build_files` writes them; a test compares them with what is
committed. A module is one py_library that depends on exactly what it imports, is
visible to the packages that import it, and carries the data files it names. A
test file is one py_test that runs pytest on it.
"""

import ast
import dataclasses
import pathlib
import sys
from collections.abc import Iterable

from tools.imports import imports_of

TOPS = ("tfapprox", "tests", "tools", "experiments", "benchmarks")
RUNNER = pathlib.PurePath("tests/pytest_runner.py")
# They read the checkout itself, which a Bazel sandbox does not hold.
MANUAL = "tests/house"
DATA_SUFFIXES = {".css", ".html", ".j2", ".js", ".json", ".npz", ".typed"}

_HEADER = "# Written by `make build-files` from the imports; edit those.\n"


@dataclasses.dataclass(frozen=True)
class Source:
    """A Python file of the project and what its target needs.

    Attributes:
      path: relative to the project's root.
      name: of the target; an __init__ is called like its package, or "init" where a
        module of the package is called so.
      needs: own files it imports, relative to the root.
      data: data files beside it that it names.
      uses_tensorflow: imports TensorFlow or Keras itself, sooner or later.
      is_program: has a `__main__` block.
    """

    path: pathlib.Path
    name: str
    needs: frozenset[pathlib.Path]
    data: tuple[str, ...]
    uses_tensorflow: bool
    is_program: bool

    @property
    def is_test(self) -> bool:
        return self.path.name.endswith("_test.py")

    @property
    def label(self) -> str:
        return f"//{self.path.parent.as_posix()}:{self.name}"


def render(root: pathlib.Path) -> dict[str, str]:
    """Returns the text of every BUILD file, by its path relative to `root`."""
    sources = {source.path: source for source in _sources(root)}
    users: dict[pathlib.Path, set[str]] = {path: set() for path in sources}
    for source in sources.values():
        for needed in source.needs:
            users[needed].add(source.path.parent.as_posix())
    texts = {"BUILD": _HEADER + '\nexports_files(["pyproject.toml"])\n'}
    for folder in sorted({path.parent for path in sources}):
        inside = [sources[path] for path in sorted(sources) if path.parent == folder]
        blocks = [_target(source, sources, users[source.path]) for source in inside]
        rules = ("py_binary", "py_library", "py_test")
        used = [f'"{rule}"' for rule in rules if any(f"{rule}(" in block for block in blocks)]
        load = f'load("@rules_python//python:defs.bzl", {", ".join(used)})\n'
        if folder == RUNNER.parent:
            blocks.insert(0, f'exports_files(["{RUNNER.name}"])\n')
        texts[f"{folder.as_posix()}/BUILD"] = "\n".join([_HEADER, load, *blocks])
    return texts


def _sources(root: pathlib.Path) -> Iterable[Source]:
    files = [path for top in TOPS for path in sorted((root / top).rglob("*.py"))]
    for path in files:
        imports = imports_of(path)
        needs = {file for needed in imports for file in needed.files(root)}
        # An __init__ that imports its own modules can't also be what they depend on;
        # Bazel puts an empty one in its place.
        around = set(_packages(path, root))
        needs = (needs | around) - {init for init in around if _needs_own(init, root)}
        tree = ast.parse(path.read_text())
        yield Source(
            path.relative_to(root),
            _target_name(path),
            frozenset(file.relative_to(root) for file in needs if file != path),
            _data_files(path, tree),
            any(i.module.split(".")[0] in ("keras", "tensorflow", "tf_keras") for i in imports),
            any(isinstance(n, ast.If) and "__main__" in ast.unparse(n.test) for n in tree.body),
        )


def _target_name(path: pathlib.Path) -> str:
    if path.name != "__init__.py":
        return path.stem
    package = path.parent.name
    return "init" if path.with_name(f"{package}.py").exists() else package


def _packages(path: pathlib.Path, root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the __init__ files of the packages around a file."""
    folders = [folder for folder in path.parents if root in folder.parents]
    inits = [folder / "__init__.py" for folder in folders]
    return [init for init in inits if init.is_file() and init != path]


def _needs_own(path: pathlib.Path, root: pathlib.Path) -> bool:
    return any(needed.files(root) for needed in imports_of(path))


def _data_files(path: pathlib.Path, tree: ast.Module) -> tuple[str, ...]:
    """Returns the data files in the module's folder whose names occur in its strings."""
    if path.name == "__init__.py":
        return tuple(p.name for p in path.parent.glob("py.typed"))
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    beside = [p.name for p in path.parent.iterdir() if p.suffix in DATA_SUFFIXES]
    return tuple(sorted(name for name in beside if name in texts))


def _target(source: Source, sources: dict[pathlib.Path, Source], users: set[str]) -> str:
    labels = [sources[path].label for path in source.needs]
    here = source.path.parent.as_posix()
    if source.is_test:
        return _test(source, labels, sources)
    fields: dict[str, object] = {"name": source.name}
    if here.startswith("tests"):
        fields["testonly"] = True
    fields |= {"srcs": [source.path.name], "data": source.data}
    fields |= {"visibility": _visibility(source, users - {here}), "deps": _short(labels, here)}
    block = _block("py_library", fields)
    if source.is_program and here.split("/")[0] in ("tfapprox", "experiments"):
        program: dict[str, object] = {"name": f"{source.name.strip('_')}_program"}
        program |= {"srcs": [source.path.name], "main": source.path.name}
        program |= {"deps": [f":{source.name}"]}
        block += "\n" + _block("py_binary", program)
    return block


def _test(source: Source, labels: list[str], sources: dict[pathlib.Path, Source]) -> str:
    here = source.path.parent.as_posix()
    runner = f"//{RUNNER.parent}:{RUNNER.name}"
    # pytest loads the conftest of every folder above a test, unasked.
    conftests = (sources.get(folder / "conftest.py") for folder in source.path.parents)
    labels = [*labels, *(conftest.label for conftest in conftests if conftest)]
    fields: dict[str, object] = {"name": source.name}
    fields["size"] = "large" if _reaches_tensorflow(source, sources) else "medium"
    fields |= {"srcs": [source.path.name, runner], "main": runner}
    fields |= {"args": [f"$(location {source.path.name})"]}
    fields |= {"data": [*source.data, "//:pyproject.toml"]}
    if here == MANUAL:
        fields["tags"] = ["manual"]
    fields["deps"] = _short(labels, here)
    return _block("py_test", fields)


def _reaches_tensorflow(source: Source, sources: dict[pathlib.Path, Source]) -> bool:
    waiting, seen = [source], {source.path}
    while waiting:
        current = waiting.pop()
        if current.uses_tensorflow:
            return True
        waiting += [sources[path] for path in current.needs - seen]
        seen |= current.needs
    return False


def _visibility(source: Source, users: set[str]) -> list[str]:
    if source.path.parent.as_posix() == "tfapprox":
        return ["//visibility:public"]  # the doors of the package
    if source.path.name == "conftest.py":
        return [f"//{source.path.parent.as_posix()}:__subpackages__"]
    return [f"//{user}:__pkg__" for user in sorted(users)] or ["//visibility:private"]


def _short(labels: Iterable[str], here: str) -> list[str]:
    """Returns labels as Bazel's style has them: local ones first, packages by their name."""
    short = set()
    for label in labels:
        folder, _, name = label.removeprefix("//").partition(":")
        if folder == here:
            short.add(f":{name}")
        else:
            short.add(f"//{folder}" if folder.split("/")[-1] == name else label)
    return sorted(short, key=lambda label: (not label.startswith(":"), label))


def _block(rule: str, fields: dict[str, object]) -> str:
    lines = [f"{rule}("]
    for name, value in fields.items():
        if isinstance(value, list | tuple):
            if len(value) == 1:
                lines.append(f'    {name} = ["{value[0]}"],')
            elif value:
                lines += [f"    {name} = [", *(f'        "{v}",' for v in value), "    ],"]
        else:
            lines.append(f"    {name} = {value}," if value is True else f'    {name} = "{value}",')
    return "\n".join([*lines, ")", ""])


def main() -> None:
    root = pathlib.Path(__file__).resolve().parents[1]
    texts = render(root)
    for stale in {p for top in TOPS for p in (root / top).rglob("BUILD")}:
        if stale.relative_to(root).as_posix() not in texts:
            stale.unlink()
    for path, text in texts.items():
        (root / path).write_text(text)
    print(f"{len(texts)} BUILD files", file=sys.stderr)


if __name__ == "__main__":
    main()
