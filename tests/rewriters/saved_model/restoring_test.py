"""A restored SavedModel has the original's graph and the compressed model's outputs."""

import collections
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.corpus import saved_models, saved_models_keras  # noqa: F401 (fills the corpus)
from tests.corpus.building import CORPUS
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.factorizing import factorize_plan
from tfapprox.planning import full_rank_plan
from tfapprox.rewriters.plan import EXTRA
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.rewriters.saved_model.matching import LINEAR
from tfapprox.rewriters.saved_model.restoring import restore_saved_model
from tfapprox.serving.cc_loader import CcSession

# Every form of product, and every way that a kernel takes through a graph.
CASES = (
    "matmul_flags",
    "matmul_kernel_on_the_left",
    "tied_and_transposed",
    "batch_matmul",
    "einsum",
    "conv2d_explicit_padding_and_dilation",
    "conv1d",
    "split_kernel",
    "mixed_precision",
    "nested_calls_with_different_kernels",
    "constant_as_argument",
    "while_loop",
    "branches",
    "lists_dicts_and_tuples_of_variables",
)


def write_full_rank(model: Path, path: Path) -> int:
    """Factorizes every site at full rank and returns their number."""
    opened = open_saved_model(model)
    plan = full_rank_plan(opened.inspection)
    _, factorizations = factorize_plan(opened.inspection, plan, SpectrumCache())
    write_saved_model(opened, factorizations, path)
    return len(factorizations)


def kernel_shapes(model: Path):
    return sorted(site.kernel.shape for site in open_saved_model(model).inspection.sites)


def linear_operations(model: Path) -> collections.Counter:
    read = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    graph = read.meta_graphs[0].graph_def
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    # V3 differs in dtypes that may differ; with the same ones it comes back as V2.
    names = (node.op.replace("BatchMatMulV3", "BatchMatMulV2") for node in nodes)
    return collections.Counter(name for name in names if name in LINEAR)


def outputs(model: Path, inputs):
    with CcSession(str(model)) as session:
        return session.run(inputs)


@pytest.mark.parametrize("name", CASES)
def test_the_graph_has_the_original_s_shape_again(name, tmp_path):
    CORPUS[name].build(tmp_path / "model")
    count = write_full_rank(tmp_path / "model", tmp_path / "small")
    restored = restore_saved_model(tmp_path / "small", tmp_path / "dense")
    assert restored.verification.passed and not restored.kept
    assert len(restored.restored) == count
    assert kernel_shapes(tmp_path / "dense") == kernel_shapes(tmp_path / "model")
    if name != "nested_calls_with_different_kernels":  # one function for each kernel stays
        assert linear_operations(tmp_path / "dense") == linear_operations(tmp_path / "model")


def test_losses_that_read_a_kernel_as_a_whole_read_the_dense_one_again(tmp_path):
    saved_models_keras.tf_keras_regularized(tmp_path / "model")
    write_full_rank(tmp_path / "model", tmp_path / "small")
    restored = restore_saved_model(tmp_path / "small", tmp_path / "dense")
    assert len(restored.restored) == 2 and not restored.kept
    assert linear_operations(tmp_path / "dense") == linear_operations(tmp_path / "model")
    want, got = (tf.saved_model.load(str(tmp_path / n)) for n in ("model", "dense"))
    for one, other in zip(want.regularization_losses, got.regularization_losses, strict=True):
        np.testing.assert_allclose(float(other()), float(one()), rtol=1e-5)
    assert sorted(v.name for v in got.variables) == sorted(v.name for v in want.variables)


def orthogonal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / shape[-2] ** 0.5


def chain_of_every_step(kernel_size, in_channels, out_channels) -> Factorization:
    """Groups behind a reordered input, a plain stage, and a reordered output."""
    rng = np.random.default_rng(0)
    height, width = kernel_size
    return Factorization(
        (
            Stage(
                orthogonal(height, 1, in_channels // 4, 24, seed=1),
                groups=4,
                axes=(True, False),
                input_order=rng.permutation(in_channels),
            ),
            Stage(orthogonal(1, width, 24, out_channels, seed=2), axes=(False, True)),
        ),
        output_order=rng.permutation(out_channels),
    )


def depthwise(in_channels, out_channels) -> Factorization:
    return Factorization(
        (
            Stage(orthogonal(3, 3, 1, 2 * in_channels, seed=3), groups=in_channels),
            Stage(orthogonal(1, 1, 2 * in_channels, out_channels, seed=4), axes=(False, False)),
        )
    )


@pytest.fixture(scope="module")
def convolution(tmp_path_factory):
    module = tf.Module()
    module.dense = tf.Variable(orthogonal(16, 32), name="dense/kernel")
    module.conv = tf.Variable(orthogonal(3, 3, 8, 16), name="conv/kernel", trainable=False)
    module.more = {"w": tf.Variable(orthogonal(3, 3, 8, 16, seed=5))}
    spec = tf.TensorSpec([None, 9, 9, 8], name="x")

    @tf.function(input_signature=[spec])
    def serve(x):
        y = tf.nn.conv2d(x, module.conv, [2, 2], "SAME", name="conv")
        z = tf.nn.conv2d(x, module.more["w"], [2, 2], "SAME", name="more")
        return {"y": tf.nn.relu(tf.reduce_mean(y + z, [1, 2])) @ module.dense}

    path = tmp_path_factory.mktemp("restoring") / "model"
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    return path


def test_groups_orders_and_depthwise_stages_compose(convolution, tmp_path):
    opened = open_saved_model(convolution)
    names = {site.kernel.shape: site.name for site in reversed(opened.inspection.sites)}
    made = {
        names[3, 3, 8, 16]: chain_of_every_step((3, 3), 8, 16),
        names[1, 1, 16, 32]: chain_of_every_step((1, 1), 16, 32),
    }
    (other,) = [s.name for s in opened.inspection.sites if s.name not in made]
    made[other] = depthwise(8, 16)
    write_saved_model(opened, made, tmp_path / "small")
    restore_saved_model(tmp_path / "small", tmp_path / "dense")
    dense = {
        site.name: site.kernel for site in open_saved_model(tmp_path / "dense").inspection.sites
    }
    assert set(dense) == set(made)
    for name, factorization in made.items():
        np.testing.assert_allclose(dense[name], factorization.reconstruct(), atol=1e-6)


def test_a_rewrite_of_a_rewrite_is_undone_as_a_whole(convolution, tmp_path):
    write_full_rank(convolution, tmp_path / "once")
    assert write_full_rank(tmp_path / "once", tmp_path / "twice") == 6
    restored = restore_saved_model(tmp_path / "twice", tmp_path / "dense")
    assert len(restored.restored) == 3
    assert linear_operations(tmp_path / "dense") == linear_operations(convolution)
    inputs = {"x": np.random.default_rng(2).standard_normal((2, 9, 9, 8)).astype(np.float32)}
    want, got = outputs(convolution, inputs)["y"], outputs(tmp_path / "dense", inputs)["y"]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_variables_have_their_names_places_and_trainability_again(convolution, tmp_path):
    write_full_rank(convolution, tmp_path / "small")
    restore_saved_model(tmp_path / "small", tmp_path / "dense")
    want, got = (tf.saved_model.load(str(p)) for p in (convolution, tmp_path / "dense"))
    for one, other in (
        (want.dense, got.dense),
        (want.conv, got.conv),
        (want.more["w"], got.more["w"]),
    ):
        assert one.name == other.name and one.shape == other.shape
        assert one.trainable == other.trainable
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)


def test_the_rest_of_the_model_is_kept_and_the_plan_goes(convolution, tmp_path):
    write_full_rank(convolution, tmp_path / "small")
    extra = tmp_path / "small" / "assets.extra"
    (tmp_path / "small" / EXTRA).mkdir(parents=True)
    (tmp_path / "small" / EXTRA / "plan.json").write_text("{}")
    (extra / "tf_serving_warmup_requests").write_bytes(b"record")
    restore_saved_model(tmp_path / "small", tmp_path / "dense")
    files = [p.name for p in (tmp_path / "dense" / "assets.extra").iterdir()]
    assert files == ["tf_serving_warmup_requests"]


def named_like_a_chain(path: Path, show_inner: bool) -> None:
    module = tf.Module()
    module.factors = [tf.Variable(orthogonal(8, 4)), tf.Variable(orthogonal(4, 8))]

    @tf.function(input_signature=[tf.TensorSpec([None, 8], name="x")])
    def serve(x):
        a, b = module.factors
        inner = tf.raw_ops.MatMul(a=x, b=a.read_value(), name="product/stage")
        result = {"y": tf.raw_ops.MatMul(a=inner, b=b.read_value(), name="product")}
        return result | ({"inner": inner} if show_inner else {})

    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def test_a_chain_whose_inside_is_used_is_left_alone(tmp_path):
    named_like_a_chain(tmp_path / "open", show_inner=True)
    with pytest.raises(UserError, match="nothing to restore"):
        restore_saved_model(tmp_path / "open", tmp_path / "dense")
    assert not (tmp_path / "dense").exists()
    named_like_a_chain(tmp_path / "closed", show_inner=False)
    assert len(restore_saved_model(tmp_path / "closed", tmp_path / "dense").restored) == 1


def test_what_was_never_compressed_is_refused(convolution, tmp_path):
    with pytest.raises(UserError, match="nothing to restore"):
        restore_saved_model(convolution, tmp_path / "dense")
    assert not (tmp_path / "dense").exists()
