"""What one environment can't show: other Pythons, other TensorFlows, and a clean install.

`nox` runs everything and takes an hour; `nox -l` lists the sessions, `nox -s wheel-3.13` runs
those of one. Interpreters that are missing are skipped. Each session builds nothing of its
own: it installs the wheel (or source archive) and leaves the checkout behind. Where `uv` is
found it makes the environments, quicker than pip.
"""

import os
import pathlib
import shutil
import subprocess

import nox

ROOT = pathlib.Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")
# Run outside the checkout against the installed package. With all extras, what uses each of
# them; the rest has no reason to differ from the environment it is developed in:
OPTIONAL = (
    "tests/combining/pipeline_test.py::test_excluded_layers_are_left_alone",
    "tests/combining/tfmot_import_test.py",
    "tests/compression/keras_tools_test.py",
    "tests/experiments/prepare_data_test.py",
    "tests/report/page_test.py",
    "tests/report/tensorboard_test.py",
    "tests/serving/warmup_test.py",
)
# With the oldest libraries, what touches most of them, model by model and layer by layer:
OLDEST = (
    "tests/cli",
    "tests/layers",
    "tests/ops",
    "tests/rewriters/keras_model_test.py",
    "tests/rewriters/saved_model/contract_test.py",
    "tests/serving",
)
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1"}

# uv compiles nothing when it installs. Where Python may not write what it compiled either, each
# process would compile TensorFlow anew, for a minute.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
@nox.parametrize("extras", ["none", "all"])
def wheel(session: nox.Session, extras: str) -> None:
    """The wheel alone, with the newest absl-py; and with all extras, where TFMOT holds it at 1."""
    built = _build(session, "wheel")
    session.install(f"{built}[all]" if extras == "all" else str(built))
    _use(session)
    if extras == "all":
        session.run("shtab", "--shell=bash", "tfapprox.cli.parser.make_parser", silent=True)
        session.run("mkdocs", "--version")
        session.run("ray", "--version")
        _test(session, *session.posargs or OPTIONAL)


@nox.session(python=PYTHONS[1])
def sdist(session: nox.Session) -> None:
    """The source archive, installed and used."""
    session.install(str(_build(session, "sdist")))
    _use(session)


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """The oldest releases that pyproject.toml allows."""
    built = _build(session, "wheel")
    constraints = ROOT / "tools" / "constraints" / "oldest.txt"
    extras = f"{built}[experiments,report,serving]"
    session.install("-c", str(constraints), extras, "hypothesis", "pytest", "pytest-xdist")
    _use(session)
    known = (
        # tf_keras 2.18 draws names with a call that Python has deprecated since.
        "ignore:non-integer arguments to randrange:DeprecationWarning",
        # Keras 3.7 exports a model of named inputs through one of their list.
        "ignore:The structure of `inputs` does:UserWarning",
    )
    options = [word for warning in known for word in ("-W", warning)]
    _test(session, *options, *session.posargs or OLDEST)


def _build(session: nox.Session, kind: str) -> pathlib.Path:
    """Returns a fresh wheel or source archive, made from what git knows of."""
    folder = pathlib.Path(session.create_tmp()).resolve()
    shutil.rmtree(folder / "source", ignore_errors=True)
    (folder / "source").mkdir()
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().splitlines():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    session.install("build", "pip", "setuptools>=77")
    # An environment that is used again may hold a build of the same version.
    session.run_install("python", "-m", "pip", "uninstall", "--quiet", "--yes", "tfapprox")
    options = ("--no-isolation", f"--{kind}", "--outdir", str(folder / "dist"))
    session.run_install("python", "-m", "build", *options, str(folder / "source"), silent=True)
    suffix = "*.whl" if kind == "wheel" else "*.tar.gz"
    return max((folder / "dist").glob(suffix), key=os.path.getmtime)


def _use(session: nox.Session) -> None:
    """Runs the program in an empty folder: version, help, and one whole job."""
    empty = pathlib.Path(session.create_tmp()).resolve() / "empty"
    shutil.rmtree(empty, ignore_errors=True)
    empty.mkdir()
    shutil.copy(ROOT / "tools" / "try_program.py", empty)
    with session.chdir(empty):
        session.run("tfapprox", "--version")
        session.run("python", "-m", "tfapprox", "compress", "--help", silent=True)
        session.run("python", "try_program.py", env=QUIET)
    session.run("python", "-m", "pip", "check")


def _test(session: nox.Session, *tests: str) -> None:
    """Runs tests where the checkout's package is not found, only the installed one."""
    source = pathlib.Path(session.create_tmp()).resolve() / "source"
    shutil.rmtree(source / "tfapprox")
    with session.chdir(source):
        session.run("python", "-m", "pytest", "-n", "auto", "--dist", "loadfile", *tests, env=QUIET)
