"""Opening SavedModels: what is found, and what is said about those that can't be used."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.corpus import saved_models, saved_models_calls, saved_models_keras, saved_models_products
from tests.corpus.building import activations, export, variable
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    saved_models_calls.signatures_that_share_kernels(path)
    return path


@pytest.fixture(name="copy")
def _copy(model, tmp_path) -> Path:
    return shutil.copytree(model, tmp_path / "copy")


def complaint(path: Path, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        open_saved_model(path, *arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_missing_directory_is_named(tmp_path):
    assert "no such directory" in complaint(tmp_path / "nowhere")


def test_a_file_is_not_taken_for_a_model(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "is a file" in complaint(tmp_path / "file")


def test_a_directory_of_versions_points_to_the_newest(copy, tmp_path):
    (tmp_path / "base").mkdir()
    shutil.move(copy, tmp_path / "base" / "7")
    assert f"did you mean {tmp_path / 'base' / '7'}?" in complaint(tmp_path / "base")


def test_a_truncated_proto_is_reported(copy):
    content = (copy / "saved_model.pb").read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        (copy / "saved_model.pb").write_bytes(content[:length])
        assert "truncated" in complaint(copy)


def test_truncated_variables_are_reported(copy):
    (data,) = (copy / "variables").glob("variables.data-*")
    content = data.read_bytes()
    for length in (0, len(content) // 2, len(content) - 1):
        data.write_bytes(content[:length])
        assert re.search(r"variables (is damaged: it holds|can't be read)", complaint(copy))


def test_missing_variables_are_reported(copy):
    shutil.rmtree(copy / "variables")
    assert "has no value for variable" in complaint(copy)


def test_an_index_that_is_missing_is_reported(copy):
    (copy / "variables" / "variables.index").unlink()
    assert "variables.index is missing" in complaint(copy)


def test_an_unknown_tag_set_lists_those_that_exist(model):
    assert "choose --tag_set among serve" in complaint(model, ("train",))


def test_an_unknown_signature_lists_those_that_exist(model):
    text = complaint(model, ("serve",), "classify")
    assert "choose among embed, score, serving_default" in text


def test_a_kernel_with_nan_is_named(tmp_path):
    w = variable(8, 8)
    w.assign(w * np.nan)
    export(tmp_path / "m", lambda x: {"y": tf.matmul(x, w)}, {"x": activations(2, 8)}, {"w": w})
    assert "kernel of w holds NaN or Inf" in complaint(tmp_path / "m")


def test_macs_count_the_uses_in_the_selected_signature(model):
    by_signature = {
        name: {
            s.name: s.cost.macs for s in open_saved_model(model, signature=name).inspection.sites
        }
        for name in ("serving_default", "score")
    }
    assert by_signature["serving_default"] == {"v": 96 * 128, "w": 128 * 64, "u": 128 * 80}
    assert by_signature["serving_default"] == by_signature["score"]


def test_a_kernel_used_twice_is_one_site_that_counts_twice(tmp_path):
    saved_models_calls.nested_calls_with_different_kernels(tmp_path / "m")
    sites = open_saved_model(tmp_path / "m").inspection.sites
    assert sorted(site.cost.macs for site in sites) == [96 * 96, 2 * 96 * 96]


def test_geometry_counts_positions_of_one_example(tmp_path):
    saved_models_products.conv2d(tmp_path / "m")
    first, second, third = open_saved_model(tmp_path / "m").inspection.sites
    assert first.geometries[0].output_size((3, 3)) == (6, 14)
    assert second.geometries[0].output_size((3, 5)) == (4, 5)
    assert third.cost.macs == 4 * 5 * 32 * 64


def test_dense_products_count_tokens_as_positions(tmp_path):
    saved_models_products.tensordot(tmp_path / "m")
    (site,) = open_saved_model(tmp_path / "m").inspection.sites
    assert site.cost.macs == 5 * 96 * 128


def test_loops_count_their_steps(tmp_path):
    saved_models_keras.keras3_recurrent(tmp_path / "m")
    sites = {site.name: site for site in open_saved_model(tmp_path / "m").inspection.sites}
    (recurrent,) = [s for name, s in sites.items() if name.endswith("lstm_cell/recurrent_kernel")]
    assert recurrent.cost.macs == 7 * 64 * 256


def test_open_sizes_are_assumed_aloud_or_given(tmp_path):
    saved_models_products.conv1d_open_length(tmp_path / "m")
    (site,) = open_saved_model(tmp_path / "m").inspection.sites
    assert site.assumed_size == "input x taken as [1, 128, 32]"
    assert site.geometries[0].input_size == (1, 128)
    given = open_saved_model(tmp_path / "m", example_shapes={"x": (1, 50, 32)})
    (site,) = given.inspection.sites
    assert site.assumed_size == "" and site.geometries[0].input_size == (1, 50)


def test_what_stays_has_a_reason_and_a_cost(tmp_path):
    saved_models_products.convolutions_that_stay(tmp_path / "m")
    kept = {x.name: x for x in open_saved_model(tmp_path / "m").inspection.kept}
    assert "grouped" in kept["grouped"].reason and kept["grouped"].cost.macs == 36 * 9 * 8 * 32
    assert "depthwise" in kept["depth"].reason and kept["depth"].cost.macs == 36 * 9 * 32
    assert "transposed" in kept["up"].reason and kept["up"].cost.macs == 36 * 4 * 24 * 32


@pytest.mark.parametrize("read", ["directly", "as a value", "as a constant"])
def test_embeddings_are_reported(read, tmp_path):
    v, w = variable(200, 16, name="words"), variable(16, 8)
    fixed = v.numpy()
    table = {"directly": lambda: v, "as a value": lambda: tf.identity(v)}.get(read, lambda: fixed)

    def serve(ids):
        return {"y": tf.matmul(tf.reduce_mean(tf.gather(table(), ids), 1), w)}

    export(tmp_path / "m", serve, {"ids": np.arange(12).reshape(3, 4)}, {"v": v, "w": w})
    inspection = open_saved_model(tmp_path / "m").inspection
    (kept,) = inspection.kept
    assert kept.reason.startswith("embedding") and kept.cost.macs == 0
    assert read == "as a constant" or kept.name == "words"
    assert len(inspection.sites) == 1


def test_a_changed_variable_stays_because_it_changes(tmp_path):
    saved_models.changed_variable_stays(tmp_path / "m")
    (kept,) = open_saved_model(tmp_path / "m").inspection.kept
    assert kept.name == "state"


def test_keras_exports_hold_two_copies_and_say_so(tmp_path):
    saved_models_keras.keras3_export(tmp_path / "m")
    inspection = open_saved_model(tmp_path / "m").inspection
    assert any("stored twice" in note for note in inspection.notes)
    assert inspection.params == 3 * 9 * 32 + 32 + 4 * 32 + 9 * 32 * 64 + 64 + 65 * 128 + 129 * 10


def test_keras_models_that_serving_cannot_load_are_noted(tmp_path):
    saved_models_keras.keras3_plain_save(tmp_path / "m")
    notes = open_saved_model(tmp_path / "m").inspection.notes
    assert any("TF Serving can't load it" in note for note in notes)


def test_site_names_come_from_variables(tmp_path):
    saved_models_keras.keras3_export(tmp_path / "m")
    names = [
        site.name.rpartition("/")[2] for site in open_saved_model(tmp_path / "m").inspection.sites
    ]
    assert [name.rstrip("_0123456789") for name in names] == ["conv2d", "conv2d", "dense", "dense"]


def test_kernels_are_not_copied(tmp_path):
    saved_models_products.matmul_flags(tmp_path / "m")
    source = open_saved_model(tmp_path / "m")
    for kernel in source.kernels:
        assert not kernel.first.kernel.flags.owndata


def test_an_unknown_site_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="no site is called 'nobody'"):
        write_saved_model(open_saved_model(model), {"nobody": None}, tmp_path / "out")


def test_writing_nothing_gives_the_same_model(model, tmp_path):
    write_saved_model(open_saved_model(model), {}, tmp_path / "out")
    a, b = (open_saved_model(path) for path in (model, tmp_path / "out"))
    assert a.files.meta.signature_def == b.files.meta.signature_def
    assert set(a.functions) == set(b.functions)
    for name, body in a.functions.items():
        if "traced" not in name:
            assert body.proto == b.functions[name].proto
    for name in a.files.tensor_shapes:
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH":
            np.testing.assert_array_equal(a.files.tensor(name), b.files.tensor(name))


def test_variables_that_nothing_reads_are_noted_and_not_counted(tmp_path):
    w, state = variable(96, 128), variable(96, 128, seed=1, name="moment")
    tracked = {"w": w, "state": state}
    export(tmp_path / "m", lambda x: {"y": tf.matmul(x, w)}, {"x": activations(2, 96)}, tracked)
    inspection = open_saved_model(tmp_path / "m").inspection
    assert inspection.params == 96 * 128
    assert any("1 variables (48 KiB) are read by no function" in n for n in inspection.notes)


def test_given_shapes_settle_the_sizes_that_a_signature_leaves_open(tmp_path):
    w = variable(3, 3, 4, 8)
    export(
        tmp_path / "model",
        lambda x: {"y": tf.nn.conv2d(x, w, 1, "SAME")},
        {"x": activations(2, 5, 6, 4)},
        {"w": w},
        shapes={"x": [None, None, None, 4]},
    )
    given = open_saved_model(tmp_path / "model", example_shapes={"x": (2, 5, 6, 4)}).inspection
    assert (given.macs, given.sites[0].assumed_size) == (5 * 6 * w.shape.num_elements(), "")
    unfit = open_saved_model(tmp_path / "model", example_shapes={"x": (2, 5)}).inspection
    assert "taken as" in unfit.sites[0].assumed_size
