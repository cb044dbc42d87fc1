"""Runs Bazel where it can't fetch rules, with stand-ins that pass on to its built-in ones.

  python -m tools.bazel_offline test //tests/selection/...

`@rules_python` and what Bazel itself loads become small local repositories; Python and its
libraries are those of the interpreter that runs this. Made for Bazel 4 to 6 (Debian's
bazel-bootstrap is 4), which have Python rules built in. The checkout is not written to: Bazel
works in a folder of links to it.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Repository -> its package -> the rules that are loaded from it.
_RULES = {
    "rules_python": ("python", "py_binary py_library py_test"),
    "rules_cc": (
        "cc",
        "cc_binary cc_import cc_library cc_libc_top_alias cc_proto_library cc_test cc_toolchain "
        "cc_toolchain_alias cc_toolchain_suite fdo_prefetch_hints fdo_profile objc_library",
    ),
    "rules_java": (
        "java",
        "java_binary java_import java_library java_lite_proto_library java_package_configuration "
        "java_plugin java_proto_library java_runtime java_test java_toolchain",
    ),
}
# What builds leaves no links in the workspace; what only asks (query) takes no such option.
_OPTIONS = {
    "build": ("--symlink_prefix=/",),
    "run": ("--symlink_prefix=/",),
    "test": ("--symlink_prefix=/", "--test_output=errors"),
}
_COVERAGE = """package(default_visibility = ["//visibility:public"])
sh_binary(name = "coverage_report_generator", srcs = ["nothing.sh"])
sh_binary(name = "lcov_merger", srcs = ["nothing.sh"])
"""


def write_stand_ins(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes the local repositories below `folder`; returns where each lies."""
    places = {}
    for repository, (package, rules) in _RULES.items():
        files = {"WORKSPACE": f'workspace(name = "{repository}")\n', "BUILD": ""}
        files[f"{package}/BUILD"] = ""
        definitions = [
            f"def {rule}(**kwargs):\n    native.{rule}(**kwargs)\n" for rule in rules.split()
        ]
        files[f"{package}/defs.bzl"] = "\n".join(definitions)
        for rule in rules.split():
            loaded = f'load(":defs.bzl", _rule = "{rule}")\n{rule} = _rule\n'
            files[f"{package}/{rule}.bzl"] = loaded
        places[repository] = _write(folder / repository, files)
    files = {
        "WORKSPACE": 'workspace(name = "remote_coverage_tools")\n',
        "BUILD": _COVERAGE,
        "nothing.sh": "#!/bin/sh\n",
    }
    places["remote_coverage_tools"] = _write(folder / "remote_coverage_tools", files)
    (folder / "remote_coverage_tools" / "nothing.sh").chmod(0o755)
    return places


def _write(folder: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def link_checkout(folder: pathlib.Path) -> pathlib.Path:
    """Returns a workspace of links to what Bazel builds in the checkout."""
    folder.mkdir()
    (folder / "WORKSPACE").touch()
    for path in ROOT.iterdir():
        if path.name in ("BUILD", "pyproject.toml") or (path / "BUILD").is_file():
            (folder / path.name).symlink_to(path)
    return folder


def main(arguments: Sequence[str]) -> int:
    """Runs `bazel ARGUMENTS` and returns its status."""
    command, *rest = arguments or ["test", "//..."]
    bazel = os.environ.get("BAZEL", "bazel")
    first = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    with tempfile.TemporaryDirectory(prefix="tfapprox-bazel-") as name:
        folder = pathlib.Path(name)
        places = write_stand_ins(folder / "repositories")
        overrides = [f"--override_repository={k}={place}" for k, place in places.items()]
        options = [*overrides, *_OPTIONS.get(command, ())]
        return subprocess.run(
            [bazel, "--batch", command, *options, *rest],
            cwd=link_checkout(folder / "workspace"),
            env={**os.environ, "PATH": first},
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
