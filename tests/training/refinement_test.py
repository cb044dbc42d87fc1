"""Models refined block by block: nearer to the original, in both loaders and in Keras."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from tfapprox import Budget, CandidateOptions, CompressionConfig, UserError
from tfapprox.compression import compress_model, compress_saved_model
from tfapprox.report.report import Report
from tfapprox.rewriters.flat_graph import FlatGraph
from tfapprox.rewriters.saved_model.files import SavedModelFiles
from tfapprox.rewriters.saved_model.flattening import flatten
from tfapprox.serving.cc_loader import CcSession
from tfapprox.training.distillation_config import DistillationConfig
from tfapprox.training.refinement import refine

CONFIG = CompressionConfig(
    Budget("macs", keep=0.4),
    candidates=CandidateOptions(rank_multiple=2, schemes=(0, 3)),
    calibration="none",
)
STEPS = DistillationConfig(30, learning_rate=0.01)


def _images(count, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, 10, 10, 3)).astype(np.float32)
    return noise.cumsum(axis=1).cumsum(axis=2) / 10 + 1


DATA = {"image": _images(96)}


@pytest.fixture(scope="module", name="model")
def _model():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((10, 10, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(inputs)
    y = layers.Conv2D(16, 3, padding="same", use_bias=False, name="second")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(16, 3, padding="same", name="third")(y)
    x = layers.ReLU(name="joined")(layers.Add()([x, y]))
    x = layers.Conv2D(24, 3, strides=2, activation="relu", name="fourth")(x)
    outputs = layers.Dense(10, name="head")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


@pytest.fixture(scope="module", name="saved")
def _saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("refining") / "model"
    model.export(str(path), verbose=False)
    return path


@pytest.fixture(scope="module", name="refined")
def _refined(saved, tmp_path_factory):
    """Path of the model that was compressed and refined at one go, and the report of it."""
    path = tmp_path_factory.mktemp("refined") / "whole"
    report = compress_saved_model(
        saved, path, CONFIG, calibration_data=DATA, batch_sizes=(), refinement=STEPS
    )
    return path, report


def _error(got, want):
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def _run(path, x):
    with CcSession(str(path)) as session:
        (outputs,) = session.run({"image": x}, "serving_default").values()
    loaded = tf.saved_model.load(str(path)).signatures["serving_default"]
    (again,) = loaded(image=tf.constant(x)).values()
    np.testing.assert_allclose(outputs, again.numpy(), rtol=1e-3, atol=1e-4)
    return outputs


def test_a_saved_model_refined_block_by_block_comes_nearer_in_both_loaders(
    saved, refined, tmp_path
):
    path, report = refined
    held = _images(32, seed=1)
    want = _run(saved, held)
    compress_saved_model(saved, tmp_path / "plain", CONFIG, calibration_data=DATA, batch_sizes=())
    assert _error(_run(path, held), want) < 0.6 * _error(_run(tmp_path / "plain", held), want)
    assert len(report.refinement) >= 3 and report.seconds["refining"] > 0
    for block in report.refinement:
        assert block.training.error_after <= block.training.error_before
        assert block.training.steps == 30
    assert Report.from_json(report.to_json()) == report
    # Of a residual block, the two sites inside it are trained together.
    assert any(len(block.factors) >= 4 and "joined" in block.name for block in report.refinement)


def test_the_flat_graph_gives_what_the_signature_gives(saved):
    x = _images(4)
    flat = flatten(saved, "serving_default", ("serve",))
    outputs = flat.runner(list(flat.outputs.values()))({"image": x})
    np.testing.assert_allclose(outputs["0000"], _run(saved, x), rtol=1e-4, atol=1e-5)


def _two_products(a, b):
    """Returns relu(x a) b as a flat graph, the same one for any values."""
    variables = {"a": tf.Variable(a, name="a"), "b": tf.Variable(b, name="b")}

    def build():
        x = tf.compat.v1.placeholder(tf.float32, [None, 8], "x")
        h = tf.nn.relu(tf.matmul(x, variables["a"]), name="relu")
        return {"x": x}, {"y": tf.matmul(h, variables["b"], name="end")}

    return FlatGraph(build, variables)


def test_a_block_makes_up_for_what_the_ones_before_it_lost():
    """The second product is exact: on what the original hands on, nothing is to be learnt."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((8, 8)).astype("f4") for _ in range(2))
    teacher, student = _two_products(a, b), _two_products(0.5 * a, b)
    batches = [{"x": rng.standard_normal((32, 8)).astype("f4")} for _ in range(4)]
    config = DistillationConfig(200, learning_rate=0.05)
    (block,) = refine(student, teacher, {"b"}, batches, config)
    assert block.training.error_before == pytest.approx(0.5, abs=1e-3)
    assert block.training.error_after < 0.1


def test_what_can_not_be_refined_is_refused():
    eye = np.eye(8, dtype="f4")
    graph, batches = _two_products(eye, eye), [{"x": eye}, {"x": eye}]
    with pytest.raises(UserError, match="leave the distribution strategy out"):
        refine(graph, graph, {"b"}, batches, DistillationConfig(1, strategy="mirrored"))
    with pytest.raises(UserError, match="leave out --refine_steps"):
        refine(graph, graph, set(), batches, DistillationConfig(1))


def test_a_killed_refinement_goes_on_and_ends_with_the_same_factors(saved, refined, tmp_path):
    how = {"calibration_data": DATA, "batch_sizes": (), "refinement": STEPS}

    class KilledError(Exception):
        pass

    def kill(phase, done, total):
        if phase == "refining" and done >= 45:
            raise KilledError

    with pytest.raises(KilledError):
        compress_saved_model(
            saved, tmp_path / "halved", CONFIG, work_dir=tmp_path / "work", progress=kill, **how
        )
    assert not (tmp_path / "halved").exists()
    seen = []
    compress_saved_model(
        saved, tmp_path / "halved", CONFIG, work_dir=tmp_path / "work",
        progress=lambda phase, done, total: seen.append((phase, done)), **how,
    )  # fmt: skip
    # The first block was finished before: no step of it is taken again.
    assert min(done for phase, done in seen if phase == "refining") >= 30
    files = [SavedModelFiles(path, ("serve",)) for path in (refined[0], tmp_path / "halved")]
    for key in files[0].tensor_shapes:
        if "factor" in key:
            np.testing.assert_allclose(files[0].tensor(key), files[1].tensor(key), atol=1e-5)


def test_a_keras_model_refined_block_by_block_comes_nearer(model):
    data, held = _images(96), _images(32, seed=1)
    want = model(held).numpy()
    errors = []
    for kind in (None, STEPS):
        small, report = compress_model(model, CONFIG, calibration_data=data, refinement=kind)
        errors.append(_error(small(held).numpy(), want))
    assert errors[1] < 0.6 * errors[0]
    assert len(report.refinement) >= 3


def test_refining_and_distilling_follow_each_other(saved, tmp_path):
    report = compress_saved_model(
        saved, tmp_path / "out", CONFIG, calibration_data={"image": _images(64)},
        batch_sizes=(), refinement=DistillationConfig(3), distillation=DistillationConfig(3),
    )  # fmt: skip
    assert report.refinement and report.distillation.steps == 3
    _run(tmp_path / "out", _images(2))


class _Partly(tf.Module):
    """Two products, one of them with a constant."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.kernel = tf.Variable(rng.standard_normal((24, 24)).astype("f4") / 5, name="kernel")
        self.fixed = tf.constant(rng.standard_normal((24, 24)).astype("f4") / 5)

    @tf.function(input_signature=[tf.TensorSpec([None, 24], tf.float32, name="x")])
    def serve(self, x):
        return {"y": tf.nn.relu(x @ self.kernel) @ self.fixed}


@pytest.mark.parametrize("how", ["refinement", "distillation"])
def test_sites_whose_factors_are_constants_are_named_as_staying(how, tmp_path):
    module = _Partly()
    tf.saved_model.save(module, str(tmp_path / "model"), {"serving_default": module.serve})
    x = np.random.default_rng(1).standard_normal((64, 24)).astype("f4")
    config = dataclasses.replace(CONFIG, budget=Budget("macs", keep=0.5))
    report = compress_saved_model(
        tmp_path / "model", tmp_path / "out", config, calibration_data={"x": x},
        batch_sizes=(), **{how: DistillationConfig(4)},
    )  # fmt: skip
    (note,) = [note for note in report.notes if "constant of the graph" in note]
    replaced = set(report.plan.choices)
    (fixed,) = [name for name in replaced if "kernel" not in name]
    assert note.startswith(f"{fixed}: ")
    with CcSession(str(tmp_path / "out")) as session:
        assert session.run({"x": x}, "serving_default")["y"].shape == (64, 24)


def test_what_only_the_loaded_model_has_is_refused_with_the_way_out(tmp_path):
    module = _Partly()
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["a"], tf.constant([0.5])), 1.0
    )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="s")])
    def serve(s):
        scale = table.lookup(s)[:, None]
        return {"y": (tf.ones([1, 24]) * scale) @ module.kernel}

    module.table, module.look = table, serve
    tf.saved_model.save(module, str(tmp_path / "model"), {"serving_default": serve})
    config = dataclasses.replace(CONFIG, budget=Budget("macs", keep=0.5))
    with pytest.raises(UserError, match="leave out --refine_steps"):
        compress_saved_model(
            tmp_path / "model", tmp_path / "out", config,
            calibration_data={"s": np.array([b"a", b"b"] * 32)},
            batch_sizes=(), refinement=STEPS,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path / "model")
