"""Convolutions of channels-first activations (NCHW), which TensorFlow's CPU kernels don't take.

Grappler's layout optimizer can turn them for the CPU when it is told to, so that they run
here; nothing of the engine has a part in that.
"""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2

from tests.corpus.building import activations, export, variable
from tests.rewriters.saved_model.stages_test import CONV
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.serving.cc_loader import CcSession

v1 = tf.compat.v1
# padding, strides and dilations of height and width
PLACES = {
    "same": ("SAME", (2, 1), (1, 1)),
    "valid": ("VALID", (1, 1), (1, 2)),
    "explicit": (((1, 2), (0, 3)), (1, 2), (1, 1)),
}


def run_turned(path, x):
    """Returns the output y of a model whose NCHW operations Grappler turns to NHWC."""
    config = config_pb2.ConfigProto()
    rewriter = config.graph_options.rewrite_options
    rewriter.cpu_layout_conversion = rewriter_config_pb2.RewriterConfig.NCHW_TO_NHWC
    rewriter.min_graph_nodes = -1
    with v1.Graph().as_default(), v1.Session(config=config) as session:
        signature = v1.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
        return session.run(signature.outputs["y"].name, {signature.inputs["x"].name: x})


def save(path, w, bias, place):
    padding, (height, width), (down, across) = PLACES[place]
    explicit = [] if isinstance(padding, str) else [0, 0, 0, 0, *padding[0], *padding[1]]

    def serve(x):
        y = tf.raw_ops.Conv2D(
            input=x,
            filter=w,
            strides=[1, 1, height, width],
            dilations=[1, 1, down, across],
            padding="EXPLICIT" if explicit else padding,
            explicit_paddings=explicit,
            data_format="NCHW",
        )
        return {"y": tf.nn.relu(tf.nn.bias_add(y, bias, data_format="NCHW"))}

    x = activations(2, 12, 9, 11)
    export(path, serve, {"x": x}, {"w": w, "bias": bias})
    return x


def reference(x, kernel, bias, place):
    padding, strides, dilations = PLACES[place]
    x = tf.transpose(x, [0, 2, 3, 1])
    if not isinstance(padding, str):
        x, padding = tf.pad(x, [(0, 0), *padding, (0, 0)]), "VALID"
    y = tf.nn.relu(tf.nn.conv2d(x, kernel, strides, padding, dilations=dilations) + bias)
    return tf.transpose(y, [0, 3, 1, 2]).numpy()


@pytest.mark.parametrize("place", PLACES)
def test_a_site_has_the_geometry_of_its_height_and_width(place, tmp_path):
    w, bias = variable(3, 2, 12, 8), variable(8, name="bias")
    x = save(tmp_path / "source", w, bias, place)
    (site,) = open_saved_model(tmp_path / "source").inspection.sites
    padding, strides, dilations = PLACES[place]
    (geometry,) = site.geometries
    assert (geometry.padding, geometry.strides, geometry.dilations) == (padding, strides, dilations)
    assert (site.kind, geometry.input_size) == ("conv2d", (9, 11))
    assert geometry.output_size((3, 2)) == reference(x, w, bias, place).shape[2:]


@pytest.mark.parametrize("name, place", [(n, "same") for n in CONV] + [("separable", "explicit")])
def test_stages_are_channels_first_and_compute_the_convolution(name, place, tmp_path):
    w, bias = variable(3, 2, 12, 8), variable(8, name="bias")
    x = save(tmp_path / "source", w, bias, place)
    source = open_saved_model(tmp_path / "source")
    (site,) = source.inspection.sites
    write_saved_model(source, {site.name: CONV[name]}, tmp_path / "out")
    out = open_saved_model(tmp_path / "out")
    nodes = [n for body in out.functions.values() for n in body.nodes.values()]
    convolutions = [node for node in nodes if node.op == "Conv2D"]
    assert len(convolutions) > 1
    assert {node.attr["data_format"].s for node in convolutions} == {b"NCHW"}
    CcSession(str(tmp_path / "out")).close()  # it loads there; it only can't run on a CPU
    want = reference(x, CONV[name].reconstruct(), bias, place)
    np.testing.assert_allclose(run_turned(str(tmp_path / "out"), x), want, rtol=1e-4, atol=1e-4)
