"""Writes a directory beside its target and swaps it in whole, or not at all."""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tfapprox.errors import UserError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_MARK = "tfapprox-staging"


def check_target(target: Path, source: Path, overwrite: bool) -> None:
    """Refuses a target that can't be written without harm.

    Raises:
      UserError: the target is the source, holds it or lies in it; exists without
        `overwrite`; or exists and is no SavedModel, which is never deleted.
    """
    here, there = target.resolve(), source.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UserError(
            f"--output_dir {target} overlaps the source {source}; choose a directory apart from it"
        )
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"--output_dir {target} exists and is no directory; choose another path")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError(f"--output_dir {target} exists; pass --overwrite or choose another path")
    if not (target / "saved_model.pb").is_file():
        raise UserError(
            f"--output_dir {target} exists and is no SavedModel, so --overwrite will not "
            "delete it; choose another path"
        )


def check_inside(file: Path, model: Path) -> None:
    """Refuses a file that is a link to somewhere outside the model's directory.

    Copied as it is, it would carry a file of this machine into the result.

    Raises:
      UserError: naming both.
    """
    if not file.resolve().is_relative_to(model.resolve()):
        raise UserError(
            f"{file} is a link to {file.resolve()}, outside the SavedModel, and would be copied "
            "into the result; if that is wanted, copy the model with its links followed (cp -rL)"
        )


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yields a private directory beside `target` that takes its place on a clean exit.

    The swap is one rename (an exchange where the target exists), so whoever looks
    at `target` sees the old or the new directory, whole. On any exception,
    Ctrl-C included, the private directory is removed and `target` is as it was.
    What a killed process left behind is removed by the next call for that target.
    """
    parent = target.parent
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    prefix = f".{target.name}.{_MARK}-{os.getpid()}-"
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield staging
        os.chmod(staging, 0o777 & ~_umask())  # mkdtemp makes it private
        _sync_tree(staging)
        _swap(staging, target)
        _sync(parent)
    finally:
        # After an exchange this is the old target; after a plain rename it is gone.
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        os.rename(staging, target)
        return
    if _exchange(staging, target):
        return
    # No atomic exchange on this file system: two renames, undone if the second fails.
    aside = staging.with_name(staging.name + ".old")
    os.rename(target, aside)
    try:
        os.rename(staging, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two names atomically; returns False where the system can't."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if not renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE
    ):
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _remove_abandoned(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{_MARK}-(\d+)-")
    for entry in target.parent.iterdir():
        match = pattern.match(entry.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(entry, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_tree(root: Path) -> None:
    """Flushes files to disk, so that a power cut after the rename finds them whole."""
    for folder, _, files in os.walk(root):
        for name in files:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
