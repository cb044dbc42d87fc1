"""What replaces a model computes what it did, and its optimizer forgets nothing but kernels."""

import keras
import numpy as np
import pytest

from tests.training.tiny_decomposition import X, Y, assert_close, build, data, fit, settings
from tfapprox.planning import full_rank_plan
from tfapprox.rewriters.keras_inspection import inspect_keras_model
from tfapprox.rewriters.keras_restore import chains_of
from tfapprox.selection.problem import Budget
from tfapprox.training.decompose_in_training import DecomposeInTraining
from tfapprox.training.switching import decompose_model, plan_decomposition, reconstruct_model


@pytest.fixture(autouse=True)
def fresh_session():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session()


def test_old_slots_stay_and_new_kernels_start_with_none():
    model = build(keras.optimizers.Adam(0.01))
    model.fit(X, Y, verbose=0)
    plan = settings().plan(model)
    new = decompose_model(model, plan)
    old_slots = {v.path.partition("/")[2]: v.numpy() for v in model.optimizer.variables}
    new_slots = {v.path.partition("/")[2]: v.numpy() for v in new.optimizer.variables}
    for name, value in old_slots.items():
        if "kernel" in name and "logits" not in name:
            assert np.any(value) and not np.any(new_slots[name])
        else:
            np.testing.assert_array_equal(new_slots[name], value)
    assert not any(np.any(v) for name, v in new_slots.items() if "stage0" in name)
    assert int(new.optimizer.iterations) == 2


@pytest.mark.parametrize("decomposition", ["svd", "tucker2"])
def test_decomposing_and_reconstructing_at_full_rank_leaves_the_trajectory(decomposition):
    plain, switched = build(keras.optimizers.SGD(0.05)), build(keras.optimizers.SGD(0.05))
    for epoch in range(4):
        plain.fit(data(epoch), shuffle=False, verbose=0)
        if epoch == 2:
            plan = full_rank_plan(inspect_keras_model(switched), decomposition)
            decomposed = decompose_model(switched, plan)
            assert len(list(chains_of(decomposed))) == 3
            switched = reconstruct_model(decomposed)
        switched.fit(data(epoch), shuffle=False, verbose=0)
    assert_close(switched.get_weights(), plain.get_weights())


def test_reconstruction_computes_what_the_decomposed_model_does():
    model = build()
    decomposed = fit(model, settings(), epochs=3).model
    dense = reconstruct_model(decomposed)
    assert dense.count_params() == model.count_params() > decomposed.count_params()
    assert_close([dense(X).numpy()], [decomposed(X).numpy()])
    assert dense.evaluate(X, Y, verbose=0) == pytest.approx(decomposed.evaluate(X, Y, verbose=0))


def test_only_what_saves_parameters_and_macs_is_decomposed():
    model = build()
    inspection = inspect_keras_model(model)
    config = DecomposeInTraining(0, "svd", "alds", budget=Budget("params", keep=0.9)).compression
    plan = plan_decomposition(model, config)
    for verdict in plan.verdicts:
        if verdict.choice is None:
            assert verdict.reason and verdict.after == verdict.before
        else:
            assert verdict.after.params < verdict.before.params
            assert verdict.after.macs < verdict.before.macs
    assert len(plan.verdicts) == len(inspection.sites)
