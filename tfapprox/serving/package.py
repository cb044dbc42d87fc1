"""The directory that TF Serving polls: BASE_PATH/NAME/VERSION, each version whole or absent."""

import re
from pathlib import Path
from shutil import copytree

from tfapprox.errors import UserError
from tfapprox.rewriters.publish import check_inside, staged
from tfapprox.serving.signature import read_signatures

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LARGEST_VERSION = 2**63 - 1


def package_saved_model(
    source: str | Path, model_name: str, base_path: str | Path, version: int | None = None
) -> Path:
    """Copies a SavedModel to `base_path`/`model_name`/`version` and returns that directory.

    The copy is made under a hidden name, which TF Serving does not take for a version,
    and renamed once it is complete and on disk: a server that polls meanwhile sees all
    of the version or nothing. A version is never replaced, because a server that has
    loaded it would not look at it again.

    Args:
      source: SavedModel with a graph tagged "serve"; it is only read.
      model_name: as requests will name it.
      base_path: holds one directory for each model; made if need be.
      version: 1 to 2^63 - 1, or None for the one after the highest that is there.

    Raises:
      UserError: no servable SavedModel, a name or version that TF Serving would not
        find, a version that exists, a target inside the source, or a source with links
        that lead out of it.
    """
    source = Path(source)
    read_signatures(str(source))
    if not _NAME.fullmatch(model_name):
        raise UserError(
            f"--model_name {model_name!r} does not fit into a request's address; use letters, "
            "digits, '_', '-' and '.', the first a letter or digit"
        )
    model_path = Path(base_path, model_name)
    if source.resolve() in (model_path.resolve(), *model_path.resolve().parents):
        raise UserError(f"--base_path {base_path} lies inside {source}; choose one apart from it")
    present = versions(model_path)
    if version is None:
        version = max(present, default=0) + 1
    if not 1 <= version <= _LARGEST_VERSION:
        raise UserError(f"--version must be 1 to 2^63 - 1, got {version}")
    target = model_path / str(version)
    _refuse_existing(target, present)
    for file in source.rglob("*"):
        check_inside(file, source)
    with staged(target) as staging:
        copytree(source, staging, dirs_exist_ok=True)
        _refuse_existing(target, versions(model_path))  # another may have been faster
    return target


def versions(model_path: Path) -> list[int]:
    """Returns the versions that TF Serving would find in a model's directory, ascending."""
    if not model_path.is_dir():
        return []
    return sorted(int(entry.name) for entry in model_path.iterdir() if entry.name.isdecimal())


def _refuse_existing(target: Path, present: list[int]) -> None:
    if int(target.name) in present or target.exists():
        raise UserError(
            f"version {target.name} of {target.parent} exists, and a server would not load it "
            f"anew; take --version {max(present) + 1}, or leave --version out"
        )
