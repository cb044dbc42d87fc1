"""Pages of the documentation that are made from the source: a hook of mkdocs.yml.

One page of the API reference for each package, with every public module in it: what is
added to the package is in the reference without another thought. Pages that no one has
put into the navigation, such as new results, are added under "Results" or "More".
"""

import ast
import pathlib
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "tfapprox"
# Programs, not a library: `tfapprox COMMAND --help` is their reference.
_LEFT_OUT = {"cli"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages = {"api/index.md": overview()}
    pages |= {f"api/{name}.md": package_page(name) for name in packages()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    config["nav"] = _with_new_pages(config["nav"], files)
    return files


def packages() -> list[str]:
    """Returns the names of the packages that the reference describes."""
    return sorted(
        folder.name
        for folder in PACKAGE.iterdir()
        if (folder / "__init__.py").is_file() and folder.name not in _LEFT_OUT
    )


def overview() -> str:
    """Returns the first page: the main doors, and where the rest is."""
    doors = "\n\n".join(f"::: {home}" for home in main_doors())
    rows = "\n".join(f"| [`{name}`]({name}.md) | {summary(name)} |" for name in packages())
    return (
        "# API reference\n\nMade from the docstrings. What `import tfapprox` gives:\n\n"
        f"{doors}\n\n## Packages\n\n| package | holds |\n|---|---|\n{rows}\n"
    )


def main_doors() -> Iterator[str]:
    """Yields the full names of what `tfapprox/__init__.py` offers."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name("_HOMES")], value=value):
                for name, home in ast.literal_eval(value).items():
                    yield f"{_defining_module(name, home)}.{name}"


def package_page(name: str) -> str:
    """Returns the page of a package: its modules, each with its public names."""
    modules = "\n\n".join(f"## `{module}`\n\n::: {module}" for module in public_modules(name))
    return f"# tfapprox.{name}\n\n{summary(name)}\n\n{modules}\n"


def public_modules(package: str) -> list[str]:
    """Returns the dotted names of modules that have a docstring and no leading underscore."""
    files = sorted((PACKAGE / package).rglob("*.py"))
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if file.name != "__init__.py" and not file.name.startswith("_")
    ]


def summary(package: str) -> str:
    """Returns the first sentence of a package's docstring, or its modules' names."""
    tree = ast.parse((PACKAGE / package / "__init__.py").read_text())
    words = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    names = [module.rpartition(".")[2].replace("_", " ") for module in public_modules(package)]
    return words or ", ".join(dict.fromkeys(names))


def _defining_module(name: str, home: str) -> str:
    """Returns the module that defines a name which a package only hands on."""
    file = ROOT.joinpath(*home.split("."), "__init__.py")
    if not file.is_file():
        return home
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return node.module or home
    return home


def _with_new_pages(nav: list[Any], files: Files) -> list[Any]:
    """Returns the navigation with the pages that it does not name yet."""
    named = set(_paths(nav))
    new = sorted(file.src_uri for file in files.documentation_pages() if file.src_uri not in named)
    places: dict[str, list[str]] = {"API": [], "Results": [], "More": []}
    for path in new:
        folder = path.partition("/")[0]
        places[{"api": "API", "results": "Results"}.get(folder, "More")].append(path)
    result = []
    for entry in nav:
        ((title, inside),) = entry.items()
        if title == "Results":
            inside = [*inside, *places["Results"]]
        if title == "Reference":
            inside = [{"API": ["api/index.md", *places["API"]]}, *inside[1:]]
        result.append({title: inside})
    return [*result, {"More": places["More"]}] if places["More"] else result


def _paths(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for value in nav.values():
            yield from _paths(value)
    else:
        for value in nav:
            yield from _paths(value)
