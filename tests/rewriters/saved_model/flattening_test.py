"""Signatures laid out flat give what the loaded ones give, or are refused with the way out."""

import numpy as np
import pytest
import tensorflow as tf

from tests.corpus import saved_models, saved_models_keras, saved_models_tf1
from tests.corpus.building import CORPUS
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.flattening import flatten

assert saved_models and saved_models_keras and saved_models_tf1  # they fill the corpus

# Nested functions, loops, branches, several outputs of an operation, half precision.
NAMES = (
    "nested_calls_with_different_kernels",
    "while_loop",
    "loop_in_a_branch_in_a_call",
    "split_kernel",
    "mixed_precision",
    "captured_constant_in_two_signatures",
    "keras3_several_endpoints",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_flat_signature_gives_what_the_loaded_one_gives(name, tmp_path):
    inputs = CORPUS[name].build(tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    signature = "serving_default"
    want = loaded.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})
    flat = flatten(tmp_path / "model", signature, ("serve",))
    keys = sorted(flat.outputs)
    assert keys == sorted(want) and set(flat.inputs) == set(inputs)
    made = flat.runner([flat.outputs[key] for key in keys])(inputs)
    for place, key in enumerate(keys):
        got = np.asarray(made[f"{place:04}"], np.float64)
        np.testing.assert_allclose(got, np.asarray(want[key], np.float64), rtol=1e-3, atol=1e-4)
    kinds = {operation.type for operation in flat.graph.get_operations()}
    assert not kinds & {"PartitionedCall", "StatefulPartitionedCall"}


@pytest.mark.parametrize("name", ["tables_and_assets", "tf1_resource_variables", "tf1_loop"])
def test_what_works_in_the_loaded_model_alone_is_refused(name, tmp_path):
    CORPUS[name].build(tmp_path / "model")
    with pytest.raises(UserError, match="leave out --refine_steps"):
        flatten(tmp_path / "model", "serving_default", ("serve",))
