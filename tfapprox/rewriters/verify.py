"""Reads a rewritten model back from disk and runs it against the original."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tfapprox.errors import UserError, VerificationError
from tfapprox.progress import Progress, no_progress
from tfapprox.rewriters.agreement import (
    OutputAgreement,
    Outputs,
    Verification,
    compare_outputs,
    is_floating,
)
from tfapprox.serving.c_api import shorten
from tfapprox.serving.cc_loader import CcSession, LoadError, check_inputs, find_signature
from tfapprox.serving.inputs import Inputs, assumed_sizes, generate_inputs
from tfapprox.serving.signature import Signature, read_signatures

BATCH_SIZE = 4
LOADERS = ("Python", "C++")
NOT_RUN = "neither model was run: compare them with tfapprox verify where that is safe"

# Two loaders run the same kernels but may fuse them otherwise, in any order of sums.
_LOADER_TOLERANCE = 1e-4
_LOADER_TOLERANCE_HALF = 2e-2

Run = Callable[[str, Inputs], Outputs]


def verify_saved_model(
    candidate: str,
    reference: str,
    inputs: Inputs | None = None,
    *,
    tags: Sequence[str] = ("serve",),
    signature: str | None = None,
    max_relative_error: float | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Verification:
    """Returns how well one SavedModel stands in for another.

    Both are loaded anew, by Python's loader and by the C++ one that TF Serving
    uses, one after the other, and every signature is run. Failures are: another
    structure (signatures, argument names, output keys, dtypes, shapes), a model that
    a loader refuses though it takes the reference, outputs that are not finite, an
    error beyond the limit, or loaders that disagree.

    Args:
      candidate, reference: SavedModel directories.
      inputs: of `signature`, and of those that take the same; the others, or all, run on
        made-up inputs.
      tags: of the graphs.
      signature: by default serving_default, or else the first.
      max_relative_error: limit for each floating-point output, or None.
      seed: of the made-up inputs.
      progress: told of each model loaded.

    Raises:
      UserError: a directory is no SavedModel, `signature` is unknown, or the inputs do
        not fit it.
    """
    wanted, found = read_signatures(reference, tags), read_signatures(candidate, tags)
    failures = compare_structure(found, wanted)
    notes: list[str] = []
    main = signature or (
        "serving_default" if "serving_default" in wanted else min(wanted, default="")
    )
    if signature is not None:
        find_signature(wanted, signature, reference)
    feeds, origin = _feeds(wanted, main, inputs, seed, notes)
    results: dict[tuple[str, str], dict[str, Outputs | UserError]] = {}
    repeated: dict[str, Outputs | UserError] = {}
    steps = [(role, loader) for role in ("reference", "candidate") for loader in LOADERS]
    for done, (role, loader) in enumerate(steps):
        progress("verifying", done, len(steps))
        path = reference if role == "reference" else candidate
        outputs, again = _run_all(path, tags, loader, feeds, twice=role == "reference")
        results[role, loader] = outputs
        repeated = repeated or again
    progress("verifying", len(steps), len(steps))
    agreements: list[OutputAgreement] = []
    for name in sorted(set(feeds) & set(found)):
        runs = {step: outputs[name] for step, outputs in results.items()}
        judged = _judge(name, runs, repeated[name], max_relative_error)
        agreements += judged[0]
        failures += judged[1]
        notes += judged[2]
    if not agreements and not failures:
        failures.append("nothing could be compared: no signature ran")
    return Verification(
        str(candidate), str(reference), origin, max_relative_error,
        tuple(agreements), tuple(failures), tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def require_same_structure(candidate: str, reference: str, tags: Sequence[str]) -> None:
    """Compares signatures alone, for models that must not be run.

    Raises:
      VerificationError: naming the differences.
    """
    failures = compare_structure(read_signatures(candidate, tags), read_signatures(reference, tags))
    if failures:
        raise VerificationError(f"the rewritten model was not written: {'; '.join(failures)}")


def compare_structure(found: Mapping[str, Signature], wanted: Mapping[str, Signature]) -> list[str]:
    """Returns in words where two sets of signatures differ, as a caller would notice."""
    failures = [f"signature {name!r} is missing" for name in sorted(set(wanted) - set(found))]
    failures += [f"signature {name!r} is new" for name in sorted(set(found) - set(wanted))]
    for name in sorted(set(wanted) & set(found)):
        a, b = found[name], wanted[name]
        if a.method_name != b.method_name:
            failures.append(f"{name}: method {a.method_name!r}, must be {b.method_name!r}")
        for side, got, want in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
            for key in sorted(set(got) | set(want)):
                if key not in got or key not in want:
                    state = "missing" if key in want else "new"
                    failures.append(f"{name}: {side} {key!r} is {state}")
                elif str(got[key]) != str(want[key]):
                    failures.append(f"{name}: {side} {key!r} is {got[key]}, must be {want[key]}")
    return failures


def _feeds(
    signatures: Mapping[str, Signature],
    main: str,
    given: Inputs | None,
    seed: int,
    notes: list[str],
) -> tuple[dict[str, Inputs], str]:
    """Returns inputs for every signature that can have some, and their origin in words."""
    feeds: dict[str, Inputs] = {}
    alike = _alike(signatures, main) if given is not None else []
    for name, signature in signatures.items():
        if given is not None and name in alike:
            feeds[name] = check_inputs(given, signature, name)
            continue
        try:
            feeds[name] = generate_inputs(signature, BATCH_SIZE, seed)
        except UserError as error:
            notes.append(f"{name} was not run: {error}")
        assumed = assumed_sizes(signature)
        if assumed:
            notes.append(f"{name}: {assumed}")
    made_up = f"made up, batch {BATCH_SIZE}, seed {seed}"
    if given is None:
        return feeds, made_up
    others = f"; other signatures: {made_up}" if len(signatures) > len(alike) else ""
    return feeds, f"given for {' and '.join(alike)}{others}"


def _alike(signatures: Mapping[str, Signature], main: str) -> list[str]:
    """Returns the main signature, and after it those that take the same, as Keras's `serve`."""

    def taken(name: str) -> dict[str, str]:
        return {key: str(spec) for key, spec in signatures[name].inputs.items()}

    return [main, *(name for name in signatures if name != main and taken(name) == taken(main))]


def _run_all(
    path: str, tags: Sequence[str], loader: str, feeds: Mapping[str, Inputs], twice: bool
) -> tuple[dict[str, Outputs | UserError], dict[str, Outputs | UserError]]:
    """Returns the outputs, or the error, of every signature, and those of a second run."""
    try:
        with _loaded(path, tags, loader) as run:
            first = {name: _attempt(run, name, feed) for name, feed in feeds.items()}
            second = {name: _attempt(run, name, feeds[name]) for name in first if twice}
            return first, second
    except LoadError as error:
        return dict.fromkeys(feeds, error), dict.fromkeys(feeds, error)


def _attempt(run: Run, name: str, feed: Inputs) -> Outputs | UserError:
    try:
        return run(name, feed)
    except UserError as error:
        return error


@contextlib.contextmanager
def _loaded(path: str, tags: Sequence[str], loader: str) -> Iterator[Run]:
    if loader == "C++":
        with CcSession(path, tags) as session:
            yield lambda name, feed: session.run(feed, name)
    else:
        yield _python_run(path, tags)


def _python_run(path: str, tags: Sequence[str]) -> Run:
    import tensorflow as tf

    try:
        model = tf.saved_model.load(path, list(tags))
    except Exception as error:  # TensorFlow raises a dozen kinds here
        raise LoadError(f"{path} can't be loaded in Python: {shorten(str(error))}") from error

    def run(name: str, feed: Inputs) -> Outputs:
        if name not in model.signatures:
            raise LoadError(f"{path}: Python finds no signature {name!r}")
        try:
            outputs = model.signatures[name](**{k: tf.constant(v) for k, v in feed.items()})
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise LoadError(
                f"{path} fails to run {name} in Python: {shorten(str(error))}"
            ) from error
        return {key: np.asarray(value.numpy()) for key, value in outputs.items()}

    return run


def _judge(
    name: str,
    runs: Mapping[tuple[str, str], Outputs | UserError],
    repeated: Outputs | UserError,
    limit: float | None,
) -> tuple[list[OutputAgreement], list[str], list[str]]:
    """Returns the agreements, failures and notes of one signature."""
    failures: list[str] = []
    notes: list[str] = []
    agreements: list[OutputAgreement] = []
    steady = _is_steady(name, runs["reference", "Python"], repeated, notes)
    for loader in LOADERS:
        want, got = runs["reference", loader], runs["candidate", loader]
        if isinstance(want, UserError):
            notes.append(f"the original can't serve as reference: {want}")
            continue
        if isinstance(got, UserError):
            failures.append(str(got))
            continue
        found, wrong = compare_outputs(got, want, name, limit if steady else None)
        agreements = agreements or found
        failures += [text for text in wrong if text not in failures]
    if not agreements and not failures:
        errors = [str(runs["reference", loader]) for loader in LOADERS]
        failures.append(f"{name} was not compared: {_remedy(errors)}")
    a, b = (runs["candidate", loader] for loader in LOADERS)
    if steady and not isinstance(a, UserError) and not isinstance(b, UserError):
        failures += _compare_loaders(name, a, b)
    return agreements, failures, notes


def _remedy(errors: Sequence[str]) -> str:
    """Returns what to do about a reference that does not run."""
    # As TensorFlow's CPU kernels of convolution, pooling and their like word it.
    if any("NHWC" in error and "CPU" in error for error in errors):
        return (
            "the original computes channels first (NCHW), which TensorFlow runs on GPUs alone: "
            "do this on one, or write without running (--dont_run) and verify there"
        )
    return "give inputs it can run on with --inputs"


def _is_steady(
    name: str, first: Outputs | UserError, second: Outputs | UserError, notes: list[str]
) -> bool:
    """Says whether the reference repeats itself; notes it when not."""
    if isinstance(first, UserError) or isinstance(second, UserError):
        return True
    agreements, failures = compare_outputs(second, first, name, _LOADER_TOLERANCE)
    noise = max((x.relative_error or 0.0 for x in agreements), default=0.0)
    changed = [x for x in agreements if x.relative_error is None and x.agreement != 1]
    if not failures and not changed:
        return True
    notes.append(
        f"{name} is random or keeps state: two runs of the original on the same inputs "
        f"differ (relative error {noise:.2e}), so no limit is put on its error"
    )
    return False


def _compare_loaders(name: str, python: Outputs, cxx: Outputs) -> list[str]:
    failures = []
    for key in sorted(set(python) & set(cxx)):
        half = is_floating(python[key]) and python[key].dtype.itemsize <= 2
        limit = _LOADER_TOLERANCE_HALF if half else _LOADER_TOLERANCE
        _, wrong = compare_outputs({key: cxx[key]}, {key: python[key]}, name, limit)
        failures += [f"the two loaders disagree: {text}" for text in wrong]
    return failures
