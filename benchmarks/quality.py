"""Error of the outputs at equal MACs: our methods against plain SVD, Tucker and CP.

Plain SVD takes one share of the singular values of every layer, unfolded over its output
channels. Tucker and CP are tensorly's, one share of the ranks in every convolution, their
factors written by the same engine. All are judged by the relative error of the outputs on
examples that training never saw, and by accuracy where labels are known.

  python -m benchmarks.quality
  python -m benchmarks.quality --models DIR

A folder in DIR holds a SavedModel in model/ and examples in inputs.npz, by input key. The
demo's network, trained on scikit-learn's digits first, is always among the subjects.
"""

import argparse
import contextlib
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import make_parser, run, say
from benchmarks.peers.environment import Peer, PeerError
from benchmarks.peers.factorizations import METHODS, factorize_by_tensorly
from benchmarks.record import Row, Value
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.planning import factorize_plan, make_plan, offer_tables
from tfapprox.registry import DECOMPOSITIONS
from tfapprox.selection.problem import Budget, CandidateTable
from tfapprox.serving.inputs import Inputs, read_inputs
from tfapprox.serving.signature import default_signature, read_signatures

_PLAIN = CandidateOptions(schemes=(0,), rank_multiple=1)
_ALL = CandidateOptions()

OURS: dict[str, dict[str, Any]] = {
    "plain SVD": {"selector": "uniform", "candidates": _PLAIN},
    "uniform SVD, best scheme": {"selector": "uniform", "candidates": _ALL},
    "alds, the paper's search": {"selector": "alds_alternating", "candidates": _ALL},
    "alds": {"selector": "alds", "candidates": _ALL},
    "alds, all decompositions": {
        "selector": "alds",
        "candidates": _ALL,
        "decompositions": tuple(DECOMPOSITIONS),
    },
}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A SavedModel and examples that training never saw.

    Attributes:
      name: for the table.
      path: of the SavedModel.
      inputs: by input key.
      labels: int [n], or None.
    """

    name: str
    path: Path
    inputs: Inputs
    labels: np.ndarray | None = None


def main() -> int:
    """Measures what the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--models", type=Path, help="folder of models and inputs of your own")
    parser.add_argument("--keeps", default="0.5,0.33,0.2", help="shares of the MACs")
    parser.add_argument("--examples", type=int, default=256, help="of the inputs, at most")
    return run(parser, "quality", measure)


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns a row for each model, share of the MACs and method."""
    keeps = [0.5] if args.quick else [float(keep) for keep in args.keeps.split(",")]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tfapprox-benchmark-") as scratch:
        folder = Path(scratch)
        subjects = _digits(folder)
        if args.models:
            subjects += _own(args.models, args.examples)
        try:
            with Peer("tensorly_factors", args.threads) as peer:
                note = "tensorly {tensorly}, NumPy {numpy}".format(**peer.versions)
                for subject in subjects:
                    rows += _measure_subject(subject, keeps, folder / "result", peer)
        except PeerError as error:
            note = f"tensorly was not measured: {error}"
            for subject in subjects:
                rows += _measure_subject(subject, keeps, folder / "result", None)
    return rows, [note]


def _measure_subject(
    subject: Subject, keeps: list[float], target: Path, peer: Peer | None
) -> Iterator[Row]:
    from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model

    expected = _outputs(subject.path, subject.inputs)
    shapes = {key: value.shape for key, value in subject.inputs.items()}
    opened = open_saved_model(str(subject.path), example_shapes=shapes)
    inspection, spectra = opened.inspection, SpectrumCache()
    tables: dict[str, list[CandidateTable]] = {}
    fixed = inspection.macs - sum(site.cost.macs for site in inspection.sites)
    for keep in keeps:
        budget = int(keep * inspection.macs)

        def ours(name: str, keep: float = keep) -> dict:
            config = CompressionConfig(Budget("macs", keep=keep), **OURS[name])
            if name not in tables:
                tables[name] = offer_tables(inspection, config, spectra)
            plan = make_plan(inspection, config, spectra, tables=tables[name])
            return factorize_plan(inspection, plan, spectra)[1]

        ways: dict[str, Callable[[], dict]] = {name: lambda name=name: ours(name) for name in OURS}
        for method in METHODS if peer else ():
            ways[f"tensorly {method}"] = lambda method=method, budget=budget: factorize_by_tensorly(
                peer, method, inspection.sites, budget, fixed
            )
        for name, way in ways.items():
            say(f"quality: {subject.name}, keep {keep}, {name}")
            case: dict[str, Value] = {"model": subject.name, "keep": keep, "method": name}
            try:
                factorizations = way()
            except UserError as error:
                yield Row(case, values={"note": str(error)})
                continue
            write_saved_model(opened, factorizations, str(target))
            outputs = _outputs(target, subject.inputs)
            macs = fixed + sum(
                factorizations[site.name].cost(site.geometries).macs
                if site.name in factorizations
                else site.cost.macs
                for site in inspection.sites
            )
            yield Row(case, {}, {"MACs kept": macs / inspection.macs, **_judge(
                outputs, expected, subject.labels
            )})  # fmt: skip
            shutil.rmtree(target)


def _judge(outputs: dict, expected: dict, labels: np.ndarray | None) -> dict[str, Value]:
    errors = [
        float(np.linalg.norm(outputs[key] - value) / np.linalg.norm(value))
        for key, value in expected.items()
    ]
    values: dict[str, Value] = {"error of outputs": max(errors)}
    if labels is not None:
        (scores,) = outputs.values()
        values["accuracy, %"] = 100 * float(np.mean(scores.argmax(-1) == labels))
    return values


def _outputs(path: Path, inputs: Inputs) -> dict[str, np.ndarray]:
    import tensorflow as tf

    name = default_signature(read_signatures(str(path)))
    model = tf.saved_model.load(str(path))
    found = model.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
    return {key: value.numpy() for key, value in found.items()}


def _digits(folder: Path) -> list[Subject]:
    from experiments.digits_demo import DemoConfig, load_digits, train_and_export

    say("quality: training on digits")
    train, test = load_digits(seed=0)
    path = folder / "digits"
    with contextlib.redirect_stdout(sys.stderr):
        train_and_export(DemoConfig(folder), train, path)
    signatures = read_signatures(str(path))
    (key,) = signatures[default_signature(signatures)].inputs
    return [Subject("digits CNN", path, {key: test.images}, test.labels)]


def _own(models: Path, examples: int) -> list[Subject]:
    subjects = []
    for folder in sorted(path.parent for path in models.glob("*/inputs.npz")):
        path = folder / "model"
        signatures = read_signatures(str(path))
        arrays = read_inputs(folder / "inputs.npz", signatures[default_signature(signatures)])
        subjects.append(Subject(folder.name, path, {k: v[:examples] for k, v in arrays.items()}))
    if not subjects:
        raise UserError(f"--models {models} has no folder with model/ and inputs.npz")
    return subjects


if __name__ == "__main__":
    sys.exit(main())
