"""Captures that don't fit their function are damage, whatever loader would overlook it."""

import re

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.corpus.building import activations, export, weights
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.rewriters.saved_model.captures import check_captures


def _entry(path, function, arguments):
    """The object graph's entry of a saved function, and how many inputs the function has."""
    module = tf.Module()
    module.kernel = tf.Variable(weights(3, 3, seed=0))
    module.call = tf.function(lambda *a: function(module.kernel, *a), autograph=False)
    inputs = len(module.call.get_concrete_function(*arguments).graph.inputs)
    tf.saved_model.save(module, str(path))
    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    (saved,) = model.meta_graphs[0].object_graph_def.concrete_functions.values()
    return saved, inputs


_VECTOR = tf.TensorSpec([None, 3])


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda w, x: x @ w, [_VECTOR]),
        (lambda w, pair: pair["a"] @ w + pair["b"], [{"a": _VECTOR, "b": _VECTOR}]),
        (lambda w, many, scale: sum(many) @ w * scale, [[_VECTOR, _VECTOR], 2.0]),
        (lambda w, x: x.values @ w, [tf.RaggedTensorSpec([None, None, 3], ragged_rank=1)]),
        (lambda w: w @ w, []),
    ],
    ids=["plain", "dictionary", "list and constant", "ragged", "no argument"],
)
def test_sound_captures_pass_and_one_too_many_does_not(tmp_path, function, arguments):
    saved, inputs = _entry(tmp_path, function, arguments)
    check_captures("f", saved, inputs)
    saved.bound_inputs.extend([0] * inputs)
    with pytest.raises(UserError, match=r"damaged: f has "):
        check_captures("f", saved, inputs)


def test_a_capture_that_the_function_has_no_input_for_is_named(tmp_path):
    kernel = tf.Variable(weights(3, 3, seed=0))
    path = tmp_path / "model"
    export(path, lambda x: {"y": x @ kernel}, {"x": activations(2, 3)}, {"kernel": kernel})
    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    functions = model.meta_graphs[0].object_graph_def.concrete_functions
    name = next(name for name in functions if "signature_wrapper" in name)
    functions[name].bound_inputs.append(0)
    file.write_bytes(model.SerializeToString())
    message = f"{name} has 2 inputs, but 1 arguments and 2 captures"
    with pytest.raises(UserError, match=re.escape(message)):
        open_saved_model(path)
