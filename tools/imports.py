"""The imports of a source file, read from its text without running it."""

import ast
import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported module, in dotted form.

    Attributes:
      module: as written after `import` or `from`.
      names: what is taken out of it; each may be a module of its own.
      lazy: inside a function, so that importing the file does not run it.
    """

    module: str
    names: tuple[str, ...] = ()
    lazy: bool = False

    def files(self, root: pathlib.Path) -> list[pathlib.Path]:
        """Returns the files below `root` that the import needs, packages' __init__ included."""
        parts = self.module.split(".")
        dotted = [parts[: i + 1] for i in range(len(parts))] + [[*parts, n] for n in self.names]
        candidates = [
            path
            for segments in dotted
            for path in (
                root.joinpath(*segments).with_suffix(".py"),
                root.joinpath(*segments, "__init__.py"),
            )
        ]
        return [path for path in candidates if path.is_file()]


def imports_of(path: pathlib.Path) -> list[Import]:
    """Returns every import of a file, leaving out those under `if TYPE_CHECKING`."""
    found: list[Import] = []
    _collect(ast.parse(path.read_text()), False, found)
    return found


def _collect(node: ast.AST, lazy: bool, found: list[Import]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            found += [Import(alias.name, (), lazy) for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            if child.level:
                raise ValueError(f"relative import in line {child.lineno}: write it in full")
            names = tuple(alias.name for alias in child.names)
            found.append(Import(child.module or "", names, lazy))
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                _collect(other, lazy, found)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            _collect(child, lazy or is_function, found)


def modules_loaded_by(path: pathlib.Path, root: pathlib.Path) -> dict[str, str]:
    """Returns the foreign modules that importing a file loads, each with the file that asks.

    Follows the files below `root`; lazy imports do not count.
    """
    foreign: dict[str, str] = {}
    waiting, seen = [path], {path}
    while waiting:
        asking = waiting.pop()
        for needed in imports_of(asking):
            if needed.lazy:
                continue
            own = needed.files(root)
            if not own:
                foreign.setdefault(needed.module, str(asking.relative_to(root)))
            waiting += [file for file in own if file not in seen]
            seen.update(own)
    return foreign
