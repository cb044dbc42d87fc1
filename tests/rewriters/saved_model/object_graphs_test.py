"""Public functions lead to their new versions, whatever those are called."""

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.corpus.building import activations, export, variable
from tests.rewriters.saved_model.contract_test import run_cc, truncated
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model


def add_a_stranger(file) -> str:
    """Adds a function that calls the public one with any kernel; returns the callee's name."""
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    meta = model.meta_graphs[0]
    names = meta.object_graph_def.concrete_functions
    (name,) = [n for n in names if "signature_wrapper" not in n]
    (called,) = [f for f in meta.graph_def.library.function if f.signature.name == name]
    stranger = meta.graph_def.library.function.add()
    stranger.signature.name = "stranger"
    call = stranger.node_def.add(name="call", op="StatefulPartitionedCall")
    call.attr["f"].func.name = name
    for argument in called.signature.input_arg:
        stranger.signature.input_arg.add(name=argument.name, type=argument.type)
        call.input.append(argument.name)
        call.attr["Tin"].list.type.append(argument.type)
    for index, argument in enumerate(called.signature.output_arg):
        stranger.signature.output_arg.add(name=argument.name, type=argument.type)
        call.attr["Tout"].list.type.append(argument.type)
        stranger.ret[argument.name] = f"call:output:{index}"
    registered = meta.graph_def.library.registered_gradients.add()
    registered.gradient_func = "stranger"  # so that it counts as needed
    registered.registered_op_type = "Stranger"
    file.write_bytes(model.SerializeToString())
    return name


def test_a_public_function_whose_name_is_still_needed_gets_another(tmp_path):
    w = variable(96, 64)
    inputs = {"x": activations(3, 96)}
    export(tmp_path / "source", lambda x: {"y": tf.matmul(x, w)}, inputs, {"w": w})
    name = add_a_stranger(tmp_path / "source" / "saved_model.pb")
    want = run_cc(tmp_path / "source", inputs)["y"]
    source = open_saved_model(tmp_path / "source")
    (site,) = source.inspection.sites
    write_saved_model(source, {site.name: truncated(site)}, tmp_path / "out")
    out = open_saved_model(tmp_path / "out")
    functions = out.files.meta.object_graph_def.concrete_functions
    assert name in out.functions and name not in functions
    assert functions.keys() <= out.functions.keys() and f"{name}_version_0" in functions
    np.testing.assert_allclose(run_cc(tmp_path / "out", inputs)["y"], want, rtol=1e-4, atol=1e-5)
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    got = loaded.serve(tf.constant(inputs["x"]))["y"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
