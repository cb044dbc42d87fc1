"""One contract for every SavedModel of the corpus."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.corpus import saved_models, saved_models_keras, saved_models_tf1
from tests.corpus.building import CORPUS, Arrays
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.signature import read_signatures

assert saved_models and saved_models_keras and saved_models_tf1  # they fill the corpus
_TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-12}


def truncated(site: Site, keep: float | None = None) -> Factorization:
    """Returns the site's kernel cut by an SVD of [h w i, o], at full rank if `keep` is None."""
    matrix = site.kernel.astype(np.float64).reshape(-1, site.out_channels)
    left, spectrum, right = np.linalg.svd(matrix, full_matrices=False)
    rank = len(spectrum)
    if keep is not None:
        rank = max(1, int(keep * matrix.size) // sum(matrix.shape))
    dtype = site.kernel.dtype
    first = (left[:, :rank] * spectrum[:rank]).reshape(*site.kernel.shape[:3], rank)
    second = Stage(right[:rank][None, None].astype(dtype), axes=(False, False))
    return Factorization((Stage(first.astype(dtype)), second))


def load_and_run(path: Path, inputs: Arrays) -> tuple[Arrays, dict[str, list], bool]:
    """Returns outputs in Python, public functions, and whether all variables are trainable."""
    loaded = tf.saved_model.load(str(path))
    outputs = loaded.signatures["serving_default"](**{k: tf.constant(v) for k, v in inputs.items()})
    arrays = {name: value.numpy() for name, value in outputs.items()}
    tracked = tf.train.TrackableView(loaded).descendants()
    trainable = all(x.trainable for x in tracked if isinstance(x, tf.Variable))
    return arrays, public_functions(loaded), trainable


def run_python(path: Path, inputs: Arrays) -> Arrays:
    return load_and_run(path, inputs)[0]


def run_cc(path: Path, inputs: Arrays) -> Arrays:
    with CcSession(str(path)) as session:
        return dict(session.run(inputs, "serving_default"))


def relative_error(got: Arrays, want: Arrays) -> float:
    assert got.keys() == want.keys()
    worst = 0.0
    for name, value in want.items():
        assert got[name].dtype == value.dtype and got[name].shape == value.shape
        a, b = got[name].astype(np.float64), value.astype(np.float64)
        worst = max(worst, float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)))
    return worst


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def public_functions(loaded: Any) -> dict[str, list]:
    """Returns the root's functions, each with the signatures it was traced for."""
    found = {}
    for name in dir(loaded):
        function = getattr(loaded, name)
        if hasattr(function, "concrete_functions"):
            found[name] = sorted(
                str((f.structured_input_signature, f.output_dtypes))
                for f in function.concrete_functions
            )
    return found


@pytest.fixture(scope="module", name="results")
def _results(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Rewritten models whose source is deleted, with inputs and outputs, for a last look."""
    return {}


@pytest.mark.parametrize("name", CORPUS)
def test_contract(name, tmp_path, results):
    case = CORPUS[name]
    source_path, full_path, half_path = (tmp_path / part for part in ("source", "full", "half"))
    inputs = case.build(source_path)
    before = {f: f.read_bytes() for f in source_path.rglob("*") if f.is_file()}
    source = open_saved_model(source_path)
    sites = source.inspection.sites
    assert len(sites) == case.sites, [site.name for site in sites]
    assert len({site.name for site in sites}) == len(sites)

    write_saved_model(source, {site.name: truncated(site) for site in sites}, full_path)
    want, functions, trainable = load_and_run(source_path, inputs)
    coarsest = max(_TOLERANCE[site.kernel.dtype.name] for site in sites)
    tolerance = max(coarsest, _TOLERANCE[case.precision])
    got, kept_functions, still_trainable = load_and_run(full_path, inputs)
    assert relative_error(got, want) < tolerance
    assert relative_error(run_cc(full_path, inputs), want) < tolerance

    assert read_signatures(str(full_path)) == read_signatures(str(source_path))
    assert kept_functions == functions
    assert still_trainable or not trainable
    fingerprints = [(path / "fingerprint.pb").exists() for path in (source_path, full_path)]
    assert fingerprints[0] == fingerprints[1]
    for file, content in before.items():
        assert file.read_bytes() == content, "the source was written to"
        relative = file.relative_to(source_path)
        if relative.parts[0] in ("assets", "assets.extra"):
            assert (full_path / relative).read_bytes() == content

    write_saved_model(source, {site.name: truncated(site, 0.5) for site in sites}, half_path)
    half = run_cc(half_path, inputs)
    assert relative_error(run_python(half_path, inputs), half) < tolerance
    assert case.grows or size(half_path) < size(source_path)

    again = open_saved_model(half_path)
    chosen = {site.name: truncated(site) for site in again.inspection.sites[:3]}
    twice_path = tmp_path / "twice"
    write_saved_model(again, chosen, twice_path)
    for run in (run_cc, run_python):
        assert relative_error(run(twice_path, inputs), half) < tolerance
    results[name] = (full_path, tmp_path / "check.npz")
    np.savez(tmp_path / "check.npz", **{f"in_{k}": v for k, v in inputs.items()}, **want)


_RELOAD = """
import sys
import numpy as np, tensorflow as tf
for line in sys.stdin.read().splitlines():
    path, check = line.split("\\t")
    data = np.load(check, allow_pickle=True)
    inputs = {k[3:]: tf.constant(data[k]) for k in data if k.startswith("in_")}
    outputs = tf.saved_model.load(path).signatures["serving_default"](**inputs)
    for name, value in outputs.items():
        a, b = value.numpy().astype("f8"), data[name].astype("f8")
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)
        assert error < 2e-2, (path, name, error)
    print("ok")
"""


def test_results_reload_in_a_fresh_process_without_their_sources(results):
    import shutil

    for path, _ in results.values():
        shutil.rmtree(path.parent / "source")
    lines = "\n".join(f"{path}\t{check}" for path, check in results.values())
    done = subprocess.run(
        [sys.executable, "-c", _RELOAD], input=lines, text=True, capture_output=True, check=False
    )
    assert done.stdout.split() == ["ok"] * len(results), done.stderr[-2000:]
