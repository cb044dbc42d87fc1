"""Error of the outputs at equal MACs: our methods against plain SVD, Tucker and CP.

Plain SVD takes one share of the singular values of every layer, unfolded over its output
channels. Tucker and CP are tensorly's, one share of the ranks in every convolution, their
factors written by the same engine. All are judged by the relative error of the outputs on
examples that training never saw, and by accuracy where labels are known.

  python -m benchmarks.quality
  python -m benchmarks.quality --models DIR --ways "plain SVD;alds;alds, calibrated"

A folder in DIR holds a SavedModel in model/ and examples in inputs.npz, by input key; labels.npy
gives the accuracy beside the error, calibration.npz (other examples, by input key) is what
calibrated methods may look at. The demo's network, trained on scikit-learn's digits first, is
always among the subjects; it is calibrated on its training images, without their labels.
"""

import argparse
import contextlib
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import make_parser, run, say
from benchmarks.peers.environment import Peer, PeerError
from benchmarks.peers.factorizations import METHODS, factorize_by_tensorly
from benchmarks.record import Row, Value
from tfapprox.accounting.factorization import Factorization
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.factorizing import factorize_plan
from tfapprox.planning import make_plan, offer_tables
from tfapprox.registry import DECOMPOSITIONS
from tfapprox.selection.problem import Budget, CandidateTable
from tfapprox.serving.inputs import Inputs, read_inputs
from tfapprox.serving.signature import default_signature, read_signatures

_CALIBRATION = 256  # images
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
CALIBRATED: dict[str, dict[str, Any]] = {
    "uniform SVD, calibrated": {"selector": "uniform", "candidates": _ALL},
    "alds, calibrated": {"selector": "alds", "candidates": _ALL, "calibration": "rectified"},
}
PEERS = {f"tensorly {method}": method for method in METHODS}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A SavedModel and examples that training never saw.

    Attributes:
      name: for the table.
      path: of the SavedModel.
      inputs: by input key.
      labels: int [n], or None.
      calibration: other examples, by input key, or None.
    """

    name: str
    path: Path
    inputs: Inputs
    labels: np.ndarray | None = None
    calibration: Inputs | None = None


def main() -> int:
    """Measures what the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--models", type=Path, help="folder of models and inputs of your own")
    parser.add_argument("--keeps", default="0.5,0.33,0.2", help="shares of the MACs")
    parser.add_argument("--examples", type=int, default=256, help="of the inputs, at most")
    parser.add_argument(
        "--ways", default=";".join((*OURS, *CALIBRATED, *PEERS)), help="separated by semicolons"
    )
    return run(parser, "quality", measure)


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns a row for each model, share of the MACs and method."""
    keeps = [0.5] if args.quick else [float(keep) for keep in args.keeps.split(",")]
    ways = args.ways.split(";")
    unknown = [way for way in ways if way not in {**OURS, **CALIBRATED, **PEERS}]
    if unknown:
        raise UserError(f"--ways: no way {unknown[0]!r}, see --help")
    with tempfile.TemporaryDirectory(prefix="tfapprox-benchmark-") as scratch:
        folder = Path(scratch)
        subjects = _digits(folder)
        if args.models:
            subjects += _own(args.models, args.examples)
        try:
            with Peer("tensorly_factors", args.threads) as peer:
                note = "tensorly {tensorly}, NumPy {numpy}".format(**peer.versions)
                return list(_measure_all(subjects, ways, keeps, folder, peer)), [note]
        except PeerError as error:
            note = f"tensorly was not measured: {error}"
            ours = [way for way in ways if way not in PEERS]
            return list(_measure_all(subjects, ours, keeps, folder, None)), [note]


def _measure_all(
    subjects: list[Subject], ways: list[str], keeps: list[float], folder: Path, peer: Peer | None
) -> Iterator[Row]:
    for subject in subjects:
        yield from _measure_subject(subject, ways, keeps, folder / "result", peer)


def _measure_subject(
    subject: Subject, ways: list[str], keeps: list[float], target: Path, peer: Peer | None
) -> Iterator[Row]:
    expected = _outputs(subject.path, subject.inputs)
    engine = _Engine(subject, peer)
    for keep in keeps:
        for way in ways:
            if way in CALIBRATED and subject.calibration is None:
                continue
            say(f"quality: {subject.name}, keep {keep}, {way}")
            case: dict[str, Value] = {"model": subject.name, "keep": keep, "method": way}
            try:
                kept = engine.compress(way, keep, target)
            except UserError as error:
                yield Row(case, values={"note": str(error)})
                continue
            judged = _judge(_outputs(target, subject.inputs), expected, subject.labels)
            yield Row(case, {}, {"MACs kept": kept, **judged})
            shutil.rmtree(target)


class _Engine:
    """Compresses a subject in every way; what the ways share is computed once."""

    def __init__(self, subject: Subject, peer: Peer | None):
        from tfapprox.rewriters.saved_model import open_saved_model

        self._subject, self._peer = subject, peer
        shapes = {key: value.shape for key, value in subject.inputs.items()}
        self._opened = open_saved_model(str(subject.path), example_shapes=shapes)
        self._spectra = SpectrumCache()
        self._tables: dict[str, list[CandidateTable]] = {}

    def compress(self, way: str, keep: float, target: Path) -> float:
        """Writes the result and returns the share of the MACs that it kept."""
        if way in CALIBRATED:
            return self._calibrated(way, keep, target)
        from tfapprox.rewriters.saved_model import write_saved_model

        inspection = self._opened.inspection
        fixed = inspection.macs - sum(site.cost.macs for site in inspection.sites)
        if way in PEERS:
            assert self._peer is not None
            built = factorize_by_tensorly(
                self._peer, PEERS[way], inspection.sites, int(keep * inspection.macs), fixed
            )
        else:
            built = self._ours(way, keep)
        write_saved_model(self._opened, built, str(target))
        macs = fixed + sum(
            built[site.name].cost(site.geometries).macs if site.name in built else site.cost.macs
            for site in inspection.sites
        )
        return macs / inspection.macs

    def _ours(self, way: str, keep: float) -> dict[str, Factorization]:
        inspection = self._opened.inspection
        config = CompressionConfig(Budget("macs", keep=keep), **OURS[way])
        if way not in self._tables:
            self._tables[way] = offer_tables(inspection, config, self._spectra)
        plan = make_plan(inspection, config, self._spectra, tables=self._tables[way])
        return factorize_plan(inspection, plan, self._spectra)[1]

    def _calibrated(self, way: str, keep: float, target: Path) -> float:
        from tfapprox.compression import compress_saved_model

        report = compress_saved_model(
            self._subject.path,
            target,
            CompressionConfig(Budget("macs", keep=keep), **CALIBRATED[way]),
            inputs=self._subject.inputs,
            calibration_data=self._subject.calibration,
            batch_sizes=(),
        )
        return report.after.macs / report.before.macs


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
    calibration = {key: train.images[:_CALIBRATION]}
    return [Subject("digits CNN", path, {key: test.images}, test.labels, calibration)]


def _own(models: Path, examples: int) -> list[Subject]:
    subjects = []
    for folder in sorted(path.parent for path in models.glob("*/inputs.npz")):
        path = folder / "model"
        signatures = read_signatures(str(path))
        signature = signatures[default_signature(signatures)]
        inputs = read_inputs(str(folder / "inputs.npz"), signature)
        labels, other = folder / "labels.npy", folder / "calibration.npz"
        subjects.append(
            Subject(
                folder.name,
                path,
                {key: value[:examples] for key, value in inputs.items()},
                np.load(labels)[:examples] if labels.exists() else None,
                read_inputs(str(other), signature) if other.exists() else None,
            )
        )
    if not subjects:
        raise UserError(f"--models {models} has no folder with model/ and inputs.npz")
    return subjects


if __name__ == "__main__":
    sys.exit(main())
