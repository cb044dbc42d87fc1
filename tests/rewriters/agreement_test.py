"""Tests of the comparison of outputs."""

import json

import ml_dtypes
import numpy as np
import pytest

from tfapprox.rewriters.agreement import OutputAgreement, Verification, compare_outputs


def agree(a, b, limit=None):
    (agreement,), failures = compare_outputs({"y": np.asarray(a)}, {"y": np.asarray(b)}, "s", limit)
    return agreement, failures


def test_errors_are_relative_to_the_reference_and_of_the_difference():
    agreement, failures = agree([[3.0, 5.0]], [[3.0, 4.0]])
    assert agreement == OutputAgreement("s", "y", pytest.approx(0.2), 1.0, 1.0)
    assert not failures
    assert agree([0.0, 2.0], [0.0, 0.0])[0].relative_error == 2.0


def test_classifiers_are_compared_by_their_largest_entry():
    a = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert agree(a, a[:, ::-1])[0].agreement == 0
    assert agree(a, [[0.2, 0.3], [0.1, 0.4]])[0].agreement == 0.5
    assert agree(a[..., None], a[..., None])[0].agreement is None


def test_what_is_no_number_is_compared_entry_by_entry():
    assert agree([1, 2], [1, 3])[0] == OutputAgreement("s", "y", None, None, 0.5)
    texts = np.array([b"a", b"b"], dtype=object)
    assert agree(texts, texts)[0].agreement == 1


def test_small_floats_are_numbers_too():
    a, b = np.array([1.5, 1.0], ml_dtypes.bfloat16), np.array([1.0, 1.0], ml_dtypes.bfloat16)
    assert agree(a, b)[0].largest_difference == 0.5


def test_an_error_beyond_the_limit_fails():
    assert agree([1.1], [1.0], limit=0.2)[1] == []
    (failure,) = agree([1.3], [1.0], limit=0.2)[1]
    assert failure == "s, output 'y': relative error 3.00e-01 exceeds 2.00e-01"


def test_infinities_must_be_where_the_original_has_them():
    assert agree([-np.inf, 1.0], [-np.inf, 1.0]) == (OutputAgreement("s", "y", 0.0, 0.0, None), [])
    assert agree([np.nan, 1.0], [np.nan, 1.0])[1] == []
    for value in (np.nan, np.inf, 5.0):
        _, (failure,) = compare_outputs(
            {"y": np.array([value, 1.0])}, {"y": np.array([-np.inf, 1.0])}, "s"
        )
        assert "not finite" in failure


def test_other_outputs_shapes_and_dtypes_fail():
    one = np.ones(1, np.float32)
    for got, words in [
        ({}, "missing"),
        ({"y": one, "z": one}, "extra"),
        ({"y": np.ones(2, np.float32)}, r"is float32 [2], must be float32 [1]"),
        ({"y": np.ones(1)}, "is float64 [1], must be float32 [1]"),
    ]:
        (failure,) = compare_outputs(got, {"y": one}, "s")[1]
        assert words in failure


def test_a_verification_survives_json():
    outputs = (
        OutputAgreement("s", "y", 0.1, 0.2, None),
        OutputAgreement("s", "z", None, None, 1.0),
    )
    before = Verification("a", "b", "given", 0.5, outputs, ("wrong",), ("note",))
    assert Verification.from_json(json.loads(json.dumps(before.to_json()))) == before
    assert not before.passed
    assert before.relative_error == 0.1
