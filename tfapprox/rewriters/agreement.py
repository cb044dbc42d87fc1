"""How far the outputs of two models are apart."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Outputs = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class OutputAgreement:
    """One output of one signature, candidate against reference.

    Attributes:
      signature, output: their names.
      relative_error: ||a - b|| / ||b|| over all entries, or ||a - b|| where b is zero;
        None for outputs that are no floating-point numbers.
      largest_difference: max |a - b|; None likewise.
      agreement: share of examples with the same largest entry for a floating-point
        output [examples, classes]; share of equal entries for integers, booleans and
        strings; else None.
    """

    signature: str
    output: str
    relative_error: float | None
    largest_difference: float | None
    agreement: float | None


@dataclasses.dataclass(frozen=True)
class Verification:
    """What came out of running the candidate against the reference.

    Attributes:
      candidate, reference: what was compared, directories or model names.
      inputs: where the inputs come from, in words.
      limit: largest relative error that passes, or None for any.
      outputs: agreement of each output.
      failures: what is wrong, in words; empty when passed.
      notes: what the reader should know besides.
    """

    candidate: str
    reference: str
    inputs: str
    limit: float | None
    outputs: tuple[OutputAgreement, ...]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def relative_error(self) -> float:
        """The largest relative error of any output."""
        return max((o.relative_error for o in self.outputs if o.relative_error is not None),
                   default=0.0)  # fmt: skip

    def to_json(self) -> dict:
        return {"passed": self.passed, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Verification":
        fields = {k: v for k, v in body.items() if k != "passed"}
        fields["outputs"] = tuple(OutputAgreement(**output) for output in fields["outputs"])
        for name in ("failures", "notes"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def compare_outputs(
    candidate: Outputs, reference: Outputs, signature: str, limit: float | None = None
) -> tuple[list[OutputAgreement], list[str]]:
    """Returns the agreement of each output both have, and failures in words.

    Failures are missing or extra outputs, other shapes or dtypes, entries that are
    not finite where the reference's are, and relative errors beyond `limit`.
    """
    agreements, failures = [], []
    for key in sorted(set(candidate) | set(reference)):
        where = f"{signature}, output {key!r}"
        if key not in candidate or key not in reference:
            failures.append(f"{where}: {'extra' if key in candidate else 'missing'}")
            continue
        a, b = candidate[key], reference[key]
        if a.shape != b.shape or a.dtype != b.dtype:
            got, want = (f"{x.dtype} {list(x.shape)}" for x in (a, b))
            failures.append(f"{where}: is {got}, must be {want}")
            continue
        if is_floating(b):
            if not np.array_equal(_not_finite(a), _not_finite(b), equal_nan=True):
                failures.append(f"{where}: not finite where the original is, or the reverse")
                continue
            error, largest, same = _compare_numbers(a, b)
            agreement = OutputAgreement(signature, key, error, largest, same)
            if limit is not None and error > limit:
                failures.append(f"{where}: relative error {error:.2e} exceeds {limit:.2e}")
        else:
            equal = float(np.mean(a == b)) if a.size else 1.0
            agreement = OutputAgreement(signature, key, None, None, equal)
        agreements.append(agreement)
    return agreements, failures


def is_floating(array: np.ndarray) -> bool:
    """Says whether it holds real or complex numbers, bfloat16 and float8 included."""
    return array.dtype.kind in "fc" or array.dtype.isbuiltin == 2


def _compare_numbers(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float | None]:
    """Returns relative error, largest difference and, for classifiers, agreement."""
    finite = np.isfinite(_wide(b))
    difference = _wide(a)[finite] - _wide(b)[finite]
    norm = np.linalg.norm(_wide(b)[finite]) or 1.0
    same_class = None
    if b.ndim == 2 and b.shape[0] and b.shape[1] > 1 and b.dtype.kind != "c":
        same_class = float(np.mean(_wide(a).argmax(axis=1) == _wide(b).argmax(axis=1)))
    largest = float(np.abs(difference).max(initial=0.0))
    return float(np.linalg.norm(difference) / norm), largest, same_class


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _not_finite(array: np.ndarray) -> np.ndarray:
    """Returns the entries with every finite one set to zero: NaN and infinities stay."""
    wide = _wide(array)
    return np.where(np.isfinite(wide), 0.0, wide)
