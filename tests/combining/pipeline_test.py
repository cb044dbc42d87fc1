import json
from pathlib import Path

import numpy as np
import pytest
import tf_keras

from tfapprox.combining import optimizing
from tfapprox.combining.kernels import kernel_states, require_clusters, require_sparsity
from tfapprox.combining.optimizing import cluster, prune, quantize_aware
from tfapprox.combining.pipeline import CombineData, combine
from tfapprox.combining.result import TITLES, markdown
from tfapprox.combining.steps import Cluster, Factorize, Prune, Quantize, Tuning
from tfapprox.combining.tflite import TfliteModel
from tfapprox.config import CompressionConfig
from tfapprox.errors import UserError, VerificationError
from tfapprox.selection.problem import Budget
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.latency import TimingOptions

TUNING = Tuning(epochs=1, batch_size=32, learning_rate=1e-3)
QUICK = TimingOptions(0, 1, 0.0, 1)
FACTORIZE = Factorize(CompressionConfig(Budget("params", 0.5)))
ALL = (FACTORIZE, Prune(0.5), Cluster(8), Quantize("training"))


@pytest.fixture(scope="module")
def combined(tfmot, keras3_model, examples, tmp_path_factory):
    before = keras3_model.get_weights()
    folder = tmp_path_factory.mktemp("combined")
    data = CombineData(examples, examples)
    model, result = combine(keras3_model, ALL, data, folder, TUNING, timing=QUICK)
    for old, new in zip(before, keras3_model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return model, result


def test_every_step_keeps_what_the_earlier_ones_made(combined):
    _, result = combined
    original, factorized, pruned, clustered, quantized = result.steps
    assert [step.name for step in result.steps] == "original factorize prune cluster int8".split()
    assert factorized.params < 0.6 * original.params
    assert original.zeros < 0.01 and pruned.zeros > 0.49
    assert pruned.distinct > 8 and clustered.distinct <= 8 and clustered.zeros > 0.49
    assert (quantized.zeros, quantized.distinct) == (clustered.zeros, clustered.distinct)
    sizes = [step.tflite_gzip_bytes for step in result.steps]
    assert sizes == sorted(sizes, reverse=True)
    assert quantized.tflite_bytes < 0.6 * clustered.tflite_bytes


def test_what_is_read_back_scores_as_the_model_did(combined):
    for step in combined[1].steps[:-1]:
        assert step.score > 0.9
        assert step.score == step.saved_model_score == step.tflite_score
    assert abs(combined[1].steps[-1].tflite_score - combined[1].steps[-1].score) < 0.05


def test_saved_models_run_in_the_cpp_loader_and_tflite_beside_them(combined, examples):
    model, result = combined
    folder = Path(result.steps[-1].folder)
    expected = model(examples.x[:8], training=False)
    with CcSession(str(folder / "saved_model")) as session:
        served = session.run({"inputs": examples.x[:8]})["outputs"]
    np.testing.assert_allclose(served, expected, atol=0.05)
    tflite = TfliteModel((folder / "model.tflite").read_bytes())
    assert tflite.integer_tensors > 4
    np.testing.assert_allclose(tflite(examples.x[:8]), expected, atol=0.05)


def test_the_result_keeps_in_json_and_markdown(combined):
    result = combined[1]
    body = json.loads(json.dumps(result.to_json()))
    assert [step["step"] for step in body["settings"]["steps"]] == [s.name for s in ALL]
    lines = markdown(result.steps).splitlines()
    assert len(lines) == 7 and {line.count("|") for line in lines} == {len(TITLES) + 1}
    assert all(np.isfinite(step.saved_model_ms + step.tflite_ms) for step in result.steps)


def test_the_order_and_the_folders_are_checked_before_anything_is_done(
    tfmot, keras3_model, examples, tmp_path
):
    data = CombineData(examples, examples)
    with pytest.raises(UserError, match="factorize after prune"):
        combine(keras3_model, (Prune(), FACTORIZE), data, tmp_path, TUNING)
    (tmp_path / "0_original").mkdir()
    with pytest.raises(UserError, match="is there already"):
        combine(keras3_model, (Prune(),), data, tmp_path, TUNING)


@pytest.mark.parametrize("mode", ["post_training", "weights"])
def test_quantization_without_training_shrinks_the_tflite_model(
    tfmot, legacy_model, examples, tmp_path, mode
):
    data = CombineData(examples, examples)
    model, result = combine(legacy_model, (Quantize(mode),), data, tmp_path, TUNING, timing=QUICK)
    before, after = result.steps
    assert model is legacy_model
    assert after.tflite_bytes < 0.6 * before.tflite_bytes
    assert after.score == before.score


def test_a_none_from_tfmot_is_an_error(tfmot, legacy_model, examples, monkeypatch):
    monkeypatch.setattr(optimizing, "train_model", lambda *args: None)
    monkeypatch.setattr(tfmot.sparsity.keras, "strip_pruning", lambda model: None)
    with pytest.raises(VerificationError, match="strip_pruning returned None"):
        prune(legacy_model, Prune(), TUNING, examples)
    monkeypatch.setattr(tfmot.quantization.keras, "quantize_apply", lambda *args: None)
    with pytest.raises(VerificationError, match="quantize_apply returned None"):
        quantize_aware(legacy_model, TUNING, examples)


def test_pruning_that_pruned_nothing_is_an_error(tfmot, legacy_model, examples, monkeypatch):
    # As when the callback is forgotten: no weight becomes zero.
    monkeypatch.setattr(optimizing, "train_model", lambda *args: None)
    with pytest.raises(VerificationError, match=r"0.0% zeros, not 50.0%: the step lost them"):
        prune(legacy_model, Prune(), TUNING, examples)


def test_lost_zeros_and_values_are_named_by_kernel(legacy_model):
    with pytest.raises(VerificationError, match=r"'conv_1' has 0.0% zeros, not 50.0%"):
        require_sparsity(legacy_model, 0.5, None)
    with pytest.raises(VerificationError, match="'conv_1' has 72 distinct values, not 8"):
        require_clusters(legacy_model, 8, None)


def test_excluded_layers_are_left_alone(tfmot, legacy_model, examples):
    pruned = prune(legacy_model, Prune(0.5, "conv|classes"), TUNING, examples)
    zeros = {name: state.zeros / state.size for name, state in kernel_states(pruned).items()}
    assert zeros == {"conv_1": 0, "conv_2": 0, "hidden": 0.5, "classes": 0}
    with pytest.raises(UserError, match="no Dense, Conv1D or Conv2D layer to prune"):
        prune(legacy_model, Prune(0.5, "."), TUNING, examples)


def test_more_clusters_than_entries_are_refused_by_layer(tfmot, legacy_model, examples):
    with pytest.raises(UserError, match="'conv_1' has fewer than 100 entries"):
        cluster(legacy_model, Cluster(100), TUNING, examples, sparse=False)


def test_layers_that_tfmot_can_not_quantize_are_named(tfmot, examples):
    inputs = tf_keras.Input((8, 8, 1))
    x = tf_keras.layers.UnitNormalization(name="unit")(tf_keras.layers.Flatten()(inputs))
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(4)(x))
    with pytest.raises(UserError, match=r"unit.*post_training"):
        quantize_aware(model, TUNING, examples)
