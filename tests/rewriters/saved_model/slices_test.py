import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.slices import generate_saved_model_slices
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


def run_cpp(path):
    with CcSession(str(path)) as session:
        return session.run({"images": IMAGES})["y"]


def test_a_full_size_generator_changes_nothing(source, tmp_path):
    done = generate_saved_model_slices(source, tmp_path / "model", 2304)
    assert len(done.errors) == 3
    assert max(done.errors.values()) < 1e-12
    assert sorted(done.kept.values()) == ["its kernel is no variable", "the first convolution"]
    expected = run_cpp(source)
    np.testing.assert_allclose(run_cpp(tmp_path / "model"), expected, rtol=1e-3, atol=1e-4)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(
        loaded.serve(tf.constant(IMAGES))["y"], expected, rtol=1e-3, atol=1e-4
    )


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
    assert done.bytes_after == sum(
        file.stat().st_size for file in (tmp_path / "model").rglob("*") if file.is_file()
    )
    assert done.verification.passed
    assert 0 < done.verification.outputs[0].relative_error < 1


def test_the_generated_kernels_are_the_truncated_svd(source, tmp_path):
    done = generate_saved_model_slices(source, tmp_path / "model", 2)
    kernels = np.stack([k.numpy().ravel() for k in Net().kernels[1:]])
    spectrum = np.linalg.svd(kernels, compute_uv=False)
    norms = np.linalg.norm(kernels, axis=1)
    total = np.sum((np.array(list(done.errors.values())) * norms) ** 2)
    np.testing.assert_allclose(total, spectrum[2] ** 2, rtol=1e-5)


def test_a_budget_of_parameters_or_error_sets_the_code_size(source, tmp_path):
    params = 9 * 3 * 16 + 3 * 2304 + 16 * 8
    budget = Budget("params", keep=0.5)
    done = generate_saved_model_slices(source, tmp_path / "half", budget)
    assert done.code_size == int((0.5 * params - (params - 3 * 2304)) // (2304 + 3)) == 1
    exact = generate_saved_model_slices(source, tmp_path / "exact", Budget(max_error=0.0))
    assert (exact.slice_shape, exact.code_size) == (SLICES, 3)
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
