"""Static values: one object for an expression, views of the variable, NumPy's answers are TF's."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from tfapprox.rewriters.saved_model.provenance import Provenance, same_kernel_key
from tfapprox.rewriters.saved_model.provenance_ops import EVALUATORS, Unevaluable

_W = np.arange(24, dtype=np.float32).reshape(4, 6)


def provenance() -> Provenance:
    return Provenance(lambda key: _W)


def node(op: str, **attributes) -> node_def_pb2.NodeDef:
    made = node_def_pb2.NodeDef(name=op, op=op)
    for name, value in attributes.items():
        if isinstance(value, int):
            made.attr[name].i = value
        elif isinstance(value, tf.DType):
            made.attr[name].type = value.as_datatype_enum
        else:
            made.attr[name].list.i.extend(value)
    return made


def constant(maker: Provenance, value) -> object:
    made = node_def_pb2.NodeDef(name="c", op="Const")
    made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return maker.constant(made)


def test_equal_expressions_are_one_object():
    maker = provenance()
    w = maker.variable("w", 24)
    shapes = [constant(maker, [6, 4]) for _ in range(2)]
    assert shapes[0] is shapes[1]
    first, second = (maker.operation(node("Reshape"), [w, s], 0) for s in shapes)
    assert first is second and w is maker.variable("w", 24)


def test_chains_are_views_of_the_variable():
    maker = provenance()
    w = maker.variable("w", 24)
    turned = maker.operation(node("Transpose"), [w, constant(maker, [1, 0])], 0)
    expanded = maker.operation(node("ExpandDims"), [turned, constant(maker, 0)], 0)
    value = expanded.value()
    assert value.base is not None and np.shares_memory(value, _W)
    np.testing.assert_array_equal(value, _W.T[None])
    assert same_kernel_key(value) == same_kernel_key(_W.T[None])
    assert same_kernel_key(value) != same_kernel_key(_W[None])


def test_roots_are_what_holds_the_entries():
    maker = provenance()
    w, order = maker.variable("w", 24), constant(maker, [1, 0])
    assert maker.operation(node("Transpose"), [w, order], 0).roots == {"w"}
    scale = constant(maker, np.float32(2))
    assert maker.operation(node("Mul"), [w, scale], 0).roots == {"w", *scale.roots}


def test_casts_between_floats_keep_the_stored_type():
    maker = provenance()
    w = maker.variable("w", 24)
    assert maker.operation(node("Cast", SrcT=tf.float32, DstT=tf.float16), [w], 0) is w
    made = maker.operation(node("Cast", SrcT=tf.float32, DstT=tf.int32), [w], 0)
    assert made.value().dtype == np.int32


def test_operations_that_are_not_pure_have_no_value():
    maker = provenance()
    assert maker.operation(node("RandomUniform"), [maker.variable("w", 24)], 0) is None


def test_what_cannot_be_evaluated_says_so():
    maker = provenance()
    w = maker.variable("w", 24)
    with pytest.raises(Unevaluable, match="Reshape of constants failed"):
        maker.operation(node("Reshape"), [w, constant(maker, [5, 5])], 0).value()
    tall, wide = (constant(maker, np.ones(s, np.float32)) for s in ((5000, 1), (1, 5000)))
    with pytest.raises(Unevaluable, match="out of proportion"):
        maker.operation(node("Mul"), [tall, wide], 0).value()


def test_long_chains_need_no_deep_stack():
    maker = provenance()
    value = maker.variable("w", 24)
    for _ in range(5000):
        value = maker.operation(node("Neg"), [value], 0)
    np.testing.assert_array_equal(value.value(), _W)


_I = np.int32
CASES = {
    "StridedSlice": (
        dict(begin_mask=1, end_mask=2, shrink_axis_mask=0, ellipsis_mask=0, new_axis_mask=0),
        [_W, np.array([1, 1], _I), np.array([3, 2], _I), np.array([1, 2], _I)],
    ),
    "StridedSlice shrinking": (
        dict(begin_mask=0, end_mask=0, shrink_axis_mask=2, ellipsis_mask=0, new_axis_mask=0),
        [_W, np.array([1, 1], _I), np.array([3, 2], _I), np.array([1, 1], _I)],
    ),
    "StridedSlice with a new axis": (
        dict(begin_mask=0, end_mask=0, shrink_axis_mask=0, ellipsis_mask=1, new_axis_mask=2),
        [_W, np.array([0, 0], _I), np.array([0, 0], _I), np.array([1, 1], _I)],
    ),
    "Slice": ({}, [_W, np.array([1, 2], _I), np.array([2, -1], _I)]),
    "Split": (dict(num_split=3), [np.array(1, _I), _W]),
    "SplitV": (dict(num_split=2), [_W, np.array([2, -1], _I), np.array(1, _I)]),
    "Unpack": (dict(num=4, axis=0), [_W]),
    "Squeeze": (dict(squeeze_dims=(0,)), [_W[None]]),
    "Mean": ({}, [_W, np.array([1], _I)]),
    "Rsqrt": ({}, [_W + 1]),
}
_ARGUMENTS = {
    "StridedSlice": ("input", "begin", "end", "strides"),
    "Slice": ("input", "begin", "size"),
    "Split": ("axis", "value"),
    "SplitV": ("value", "size_splits", "axis"),
    "Unpack": ("value",),
    "Squeeze": ("input",),
    "Mean": ("input", "axis"),
    "Rsqrt": ("x",),
}


@pytest.mark.parametrize("name", CASES)
def test_numpy_agrees_with_tensorflow(name):
    op = name.split()[0]
    attributes, operands = CASES[name]
    raw = getattr(tf.raw_ops, op)
    settings = dict(attributes)
    if op == "Squeeze":
        settings = {"axis": list(attributes["squeeze_dims"])}
    want = raw(**dict(zip(_ARGUMENTS[op], operands, strict=True)), **settings)
    want = want if isinstance(want, list | tuple) else [want]
    for index, value in enumerate(want):
        got = EVALUATORS[op](attributes, list(operands), index)
        np.testing.assert_allclose(got, value, rtol=1e-6)
        assert got.shape == value.shape
