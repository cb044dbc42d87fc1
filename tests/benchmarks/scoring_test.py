import numpy as np
import pytest
import tensorflow as tf

from benchmarks.scoring import OutputScore
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.errors import UserError
from tfapprox.fitting import factorize
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.inputs import generate_inputs
from tfapprox.serving.signature import default_signature, read_signatures


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    tf.keras.utils.set_random_seed(0)
    layers = [tf.keras.layers.Dense(24, activation="relu"), tf.keras.layers.Dense(10)]
    model = tf.keras.Sequential([tf.keras.Input((16,)), *layers])
    path = tmp_path_factory.mktemp("scoring") / "model"
    model.export(path, verbose=False)
    return path


def run(path):
    signatures = read_signatures(str(path))
    name = default_signature(signatures)
    with CcSession(str(path)) as session:
        (output,) = session.run(generate_inputs(signatures[name], 2), name).values()
    return output


def test_the_score_is_what_the_rewritten_model_does_to_the_outputs(exported, tmp_path):
    opened = open_saved_model(str(exported))
    site, spectra = opened.inspection.sites[0], SpectrumCache()
    score = OutputScore(exported, opened.inspection.sites, spectra)
    table = SvdDecomposition().candidates(site, "frobenius", CandidateOptions((0,)), spectra)
    choice = table.configurations[0]
    write_saved_model(opened, {site.name: factorize(site, choice, spectra)}, str(tmp_path / "one"))
    before, after = run(exported), run(tmp_path / "one")
    error = np.linalg.norm(after - before) / np.linalg.norm(before - before.mean())
    assert error > 0.1
    assert score(site, choice) == pytest.approx(-error, rel=1e-4)
    assert score(None, None) == 0


def test_a_score_leaves_the_model_as_it_was_for_the_next(exported):
    sites, spectra = open_saved_model(str(exported)).inspection.sites, SpectrumCache()
    one, fresh = (OutputScore(exported, sites, spectra) for _ in range(2))
    choices = [
        SvdDecomposition().candidates(s, "frobenius", CandidateOptions((0,)), spectra)
        for s in sites
    ]
    first, second = (table.configurations[0] for table in choices)
    one(sites[0], first)
    assert one(sites[1], second) == fresh(sites[1], second)


def test_outputs_that_no_input_changes_give_no_score(tmp_path):
    model = tf.keras.Sequential([tf.keras.Input((16,)), tf.keras.layers.Dense(8, "softmax")])
    model.set_weights([1e-9 * w for w in model.get_weights()])
    model.export(tmp_path / "flat", verbose=False)
    sites = open_saved_model(str(tmp_path / "flat")).inspection.sites
    with pytest.raises(UserError, match="the same for any input"):
        OutputScore(tmp_path / "flat", sites, SpectrumCache())
