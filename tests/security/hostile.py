"""A small model, and ways to turn it into what a stranger might send."""

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.corpus.building import activations, export, variable, weights
from tfapprox.config import CompressionConfig
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.selection.problem import Budget

CONFIG = CompressionConfig(Budget("macs", keep=0.6), candidates=CandidateOptions(rank_multiple=1))


def build(path, function=None):
    """Writes a model of one variable and one constant kernel."""
    w, c = variable(32, 32), tf.constant(weights(32, 32, seed=3))
    function = function or (lambda x: {"y": tf.matmul(tf.matmul(x, w), c)})
    export(path, function, {"x": activations(2, 32)}, {"w": w})
    return path


def edit(model, change):
    """Changes the protos of a SavedModel."""
    proto = saved_model_pb2.SavedModel()
    file = model / "saved_model.pb"
    proto.ParseFromString(file.read_bytes())
    (meta,) = proto.meta_graphs
    change(meta)
    file.write_bytes(proto.SerializeToString())
    return model


def all_nodes(meta):
    yield from meta.graph_def.node
    for function in meta.graph_def.library.function:
        yield from function.node_def
