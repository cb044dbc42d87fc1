"""Slice-generated SavedModels: what is stored, what runs, what is told, and the way back."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.compression import compress_saved_model
from tfapprox.compression.slices import generate_saved_model_slices
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError
from tfapprox.rewriters.plan import EXTRA, Plan
from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.rewriters.saved_model.restoring import restore_saved_model
from tfapprox.selection.problem import Budget
from tfapprox.serving.cc_loader import CcSession

SLICES = (16, 16, 3, 3)
IMAGES = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype(np.float32)


class Net(tf.Module):
    """Four convolutions, the third used twice, a table, and a constant kernel at the end."""

    def __init__(self):
        rng = np.random.default_rng(0)
        widths = (3, 16, 16, 16, 16)
        self.kernels = [
            tf.Variable((rng.normal(size=(3, 3, i, o)) / 12).astype(np.float32))
            for i, o in itertools.pairwise(widths)
        ]
        self.last = tf.constant((rng.normal(size=(1, 1, 16, 8)) / 4).astype(np.float32))
        keys, values = tf.constant([0, 1]), tf.constant([1.0, 3.0])
        initializer = tf.lookup.KeyValueTensorInitializer(keys, values)
        self.table = tf.lookup.StaticHashTable(initializer, 0.0)

    @tf.function(input_signature=[tf.TensorSpec((None, 6, 6, 3), name="images")])
    def serve(self, images):
        x = images
        for kernel in (*self.kernels[:3], self.kernels[2], self.kernels[3], self.last):
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        return {"y": x * self.table.lookup(tf.constant(1))}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "model"
    net = Net()
    tf.saved_model.save(net, str(path), signatures={"serving_default": net.serve})
    return path


@pytest.fixture(scope="module")
def full(source, tmp_path_factory):
    """Path and report of a model whose generator is as large as a kernel."""
    path = tmp_path_factory.mktemp("full") / "model"
    return path, generate_saved_model_slices(source, path, 2304)


def run_cpp(path):
    with CcSession(str(path)) as session:
        return session.run({"images": IMAGES})["y"]


def errors_of(report):
    return {v.site: v.error for v in report.plan.verdicts if v.choice is not None}


def code_size_of(report):
    (size,) = {choice.settings["code_size"] for choice in report.plan.choices.values()}
    return size


def test_a_full_size_generator_changes_nothing(source, full):
    path, done = full
    assert len(errors_of(done)) == 3
    assert max(errors_of(done).values()) < 1e-12
    reasons = sorted(v.reason for v in done.plan.verdicts if v.choice is None)
    assert reasons == ["its kernel is a constant, no variable", "the first convolution"]
    expected = run_cpp(source)
    np.testing.assert_allclose(run_cpp(path), expected, rtol=1e-3, atol=1e-4)
    loaded = tf.saved_model.load(str(path))
    np.testing.assert_allclose(
        loaded.serve(tf.constant(IMAGES))["y"], expected, rtol=1e-3, atol=1e-4
    )


def test_a_result_that_is_larger_than_the_original_is_noted(source, full, tmp_path):
    more = full[1]
    assert "parameters rose" in more.notes[-1]
    less = generate_saved_model_slices(source, tmp_path / "less", 2)
    grew = less.after.disk_bytes > less.before.disk_bytes
    assert grew == any("the files grew" in note for note in less.notes)


def test_short_codes_shrink_the_model_on_disk_and_both_loaders_agree(source, tmp_path):
    done = generate_saved_model_slices(source, tmp_path / "model", 2)
    sizes = [
        sum(file.stat().st_size for file in (path / "variables").glob("*.data*"))
        for path in (source, tmp_path / "model")
    ]
    # Three kernels of 2,304 floats become two rows of 2,304 and six numbers. The names of
    # what is stored take a few hundred bytes.
    saved = 4 * (3 * 2304 - (2 * 2304 + 6))
    assert saved - 1000 < sizes[0] - sizes[1] < saved + 1000
    assert done.before.params - done.after.params == 3 * 2304 - (2 * 2304 + 6)
    assert done.after.params == open_saved_model(tmp_path / "model").inspection.params
    assert done.verification.passed
    assert 0 < done.verification.outputs[0].relative_error < 1


def test_the_generated_kernels_are_the_truncated_svd(source, tmp_path):
    done = generate_saved_model_slices(source, tmp_path / "model", 2)
    kernels = np.stack([k.numpy().ravel() for k in Net().kernels[1:]])
    spectrum = np.linalg.svd(kernels, compute_uv=False)
    norms = np.linalg.norm(kernels, axis=1)
    total = np.sum((np.array(list(errors_of(done).values())) * norms) ** 2)
    np.testing.assert_allclose(total, spectrum[2] ** 2, rtol=1e-5)


def test_a_budget_of_parameters_or_error_sets_the_code_size(source, tmp_path):
    params = 9 * 3 * 16 + 3 * 2304 + 16 * 8
    budget = Budget("params", keep=0.5)
    done = generate_saved_model_slices(source, tmp_path / "half", budget)
    assert code_size_of(done) == int((0.5 * params - (params - 3 * 2304)) // (2304 + 3)) == 1
    exact = generate_saved_model_slices(source, tmp_path / "exact", Budget(max_error=0.0))
    assert code_size_of(exact) == 3
    small = generate_saved_model_slices(source, tmp_path / "bytes", Budget("bytes", keep=0.5))
    assert code_size_of(small) == 1
    with pytest.raises(UserError, match="no multiply-adds"):
        generate_saved_model_slices(source, tmp_path / "macs", Budget("macs", keep=0.5))


def test_user_mistakes_are_named_and_leave_nothing(source, tmp_path):
    target = tmp_path / "model"
    with pytest.raises(UserError, match=r"no kernel to generate: .*not chosen by 'nowhere'"):
        generate_saved_model_slices(source, target, 2, SLICES, "nowhere")
    with pytest.raises(UserError, match="between 1 and the 2304 entries"):
        generate_saved_model_slices(source, target, 2305, SLICES)
    assert not target.exists()
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        generate_saved_model_slices(source, target, 2)


def test_gradients_reach_codes_and_generator_and_the_rest_is_kept(source, tmp_path):
    generate_saved_model_slices(source, tmp_path / "model", 2)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    with tf.GradientTape() as tape:
        loss = tf.nn.l2_loss(loaded.serve(tf.constant(IMAGES))["y"])
    variables = tape.watched_variables()
    assert sorted(tuple(v.shape) for v in variables) == [(1, 2)] * 3 + [
        (2, 3, 3, 16, 16),
        (3, 3, 3, 16),
    ]
    assert all(g is not None for g in tape.gradient(loss, variables))
    np.testing.assert_array_equal(loaded.kernels[0], Net().kernels[0])
    tf.saved_model.save(loaded, str(tmp_path / "again"), signatures=loaded.signatures)
    np.testing.assert_allclose(
        run_cpp(tmp_path / "again"), run_cpp(tmp_path / "model"), rtol=1e-4, atol=1e-6
    )


def test_servers_compute_each_kernel_once_when_they_load(source, tmp_path):
    generate_saved_model_slices(source, tmp_path / "model", 2)
    opened = open_saved_model(tmp_path / "model")
    served = opened.tracer.instances_behind(
        name for name in opened.live_main if "traced" not in name
    )
    saver = [side.body.name for side in (opened.saving, opened.restoring)]
    ran = [n.op for i in served if i.body.name not in saver for n in i.body.nodes.values()]
    assert ran.count("Conv2D") == 6 and "MatMul" not in ran
    assert [n.op for n in opened.restoring.body.nodes.values()].count("MatMul") == 3


def test_the_plan_travels_inside_can_be_applied_again_and_is_undone(source, tmp_path):
    done = generate_saved_model_slices(source, tmp_path / "model", 2)
    text = (tmp_path / "model" / EXTRA / "plan.json").read_text()
    plan = Plan.from_json(text)
    assert plan.choices == done.plan.choices
    config = CompressionConfig(Budget("params", keep=1.0))
    compress_saved_model(source, tmp_path / "same", config, plan=plan, batch_sizes=())
    np.testing.assert_array_equal(run_cpp(tmp_path / "same"), run_cpp(tmp_path / "model"))
    restored = restore_saved_model(tmp_path / "model", tmp_path / "dense")
    assert sorted(restored.restored) == ["kernels/1", "kernels/2", "kernels/3"]
    dense = tf.saved_model.load(str(tmp_path / "dense"))
    assert [tuple(k.shape) for k in dense.kernels] == [(3, 3, 3, 16)] + [(3, 3, 16, 16)] * 3
    assert not (tmp_path / "dense" / EXTRA).exists()
    assert open_saved_model(tmp_path / "dense").inspection.params == done.before.params


def test_a_generated_model_can_be_factorized_further(source, tmp_path):
    generate_saved_model_slices(source, tmp_path / "model", 2)
    config = CompressionConfig(Budget("macs", keep=0.7))
    compress_saved_model(tmp_path / "model", tmp_path / "less", config, batch_sizes=())
    assert (
        open_saved_model(tmp_path / "less")
        .files.tensor_shapes.keys()
        .isdisjoint(
            open_saved_model(tmp_path / "model").files.tensor_shapes.keys()
            - {"_CHECKPOINTABLE_OBJECT_GRAPH", "kernels/0/.ATTRIBUTES/VARIABLE_VALUE"}
        )
    )


@pytest.mark.parametrize("use_resource", [False, True])
def test_variables_of_the_main_graph_are_generated_too(use_resource, tmp_path):
    v1, kernels = tf.compat.v1, [kernel.numpy() for kernel in Net().kernels]
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 6, 6, 3], "images")
        y = x
        for name, kernel in enumerate(kernels):
            w = v1.get_variable(f"k{name}", initializer=kernel, use_resource=use_resource)
            y = tf.nn.relu(tf.nn.conv2d(y, w, 1, "SAME"))
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(tmp_path / "source"))
        sign = v1.saved_model.predict_signature_def({"images": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": sign})
        builder.save()
    done = generate_saved_model_slices(tmp_path / "source", tmp_path / "model", 3)
    assert done.verification.passed and max(errors_of(done).values()) < 1e-6
    restore_saved_model(tmp_path / "model", tmp_path / "dense")
    want = run_cpp(tmp_path / "source")
    for path in ("model", "dense"):
        np.testing.assert_allclose(run_cpp(tmp_path / path), want, rtol=1e-3, atol=1e-4)
