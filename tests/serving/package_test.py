"""A version directory appears whole or not at all, and is never replaced."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.serving import package
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.package import package_saved_model, versions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "model"
    module = tf.Module()
    module.scale = tf.Variable(3.0)
    spec = tf.TensorSpec([None], tf.float32, name="x")
    serve = tf.function(lambda x: {"y": module.scale * x}, input_signature=[spec])
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"record")
    return path


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_version_holds_every_file_and_runs(model, tmp_path):
    path = package_saved_model(model, "faces", tmp_path / "models", 7)
    assert path == tmp_path / "models" / "faces" / "7"
    assert files(path) == files(model)
    with CcSession(str(path)) as session:
        got = session.run({"x": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(got["y"], [3, 6])


def test_a_polling_server_sees_no_version_before_it_is_whole(model, tmp_path, monkeypatch):
    seen = []

    def slow_copy(source, target, **settings):
        for name in sorted(p.name for p in source.iterdir()):
            seen.append(versions(tmp_path / "faces"))
            if (source / name).is_dir():
                shutil.copytree(source / name, target / name)
            else:
                shutil.copy2(source / name, target / name)
        seen.append(versions(tmp_path / "faces"))

    monkeypatch.setattr(package, "copytree", slow_copy)
    path = package_saved_model(model, "faces", tmp_path, 1)
    assert len(seen) > 3 and not any(seen)
    assert versions(tmp_path / "faces") == [1] and files(path) == files(model)


def test_a_failed_copy_leaves_the_versions_as_they_were(model, tmp_path, monkeypatch):
    package_saved_model(model, "faces", tmp_path, 1)

    def fail(source, target, **settings):
        (target / "saved_model.pb").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(package, "copytree", fail)
    with pytest.raises(OSError):
        package_saved_model(model, "faces", tmp_path, 2)
    assert [p.name for p in (tmp_path / "faces").iterdir()] == ["1"]


def test_the_next_version_is_taken_when_none_is_named(model, tmp_path):
    assert package_saved_model(model, "faces", tmp_path).name == "1"
    (tmp_path / "faces" / "009").mkdir()
    (tmp_path / "faces" / "notes").mkdir()
    assert package_saved_model(model, "faces", tmp_path).name == "10"


def test_an_existing_version_is_refused_in_whatever_spelling(model, tmp_path):
    package_saved_model(model, "faces", tmp_path, 1)
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"version 1 of .* exists.*--version 2"):
        package_saved_model(model, "faces", tmp_path, 1)
    (tmp_path / "faces" / "003").mkdir()
    with pytest.raises(UserError, match="--version 4"):
        package_saved_model(model, "faces", tmp_path, 3)
    assert files(tmp_path) == before


def test_a_version_that_another_process_wrote_meanwhile_is_kept(model, tmp_path, monkeypatch):
    def overtaken(source, target, **settings):
        shutil.copytree(source, target, **settings)
        (tmp_path / "faces" / "1").mkdir()
        (tmp_path / "faces" / "1" / "theirs").write_text("first")

    monkeypatch.setattr(package, "copytree", overtaken)
    with pytest.raises(UserError, match="exists"):
        package_saved_model(model, "faces", tmp_path, 1)
    assert [p.name for p in (tmp_path / "faces" / "1").iterdir()] == ["theirs"]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a:b", "a b", "-x"])
def test_names_that_no_request_could_carry_are_refused(model, tmp_path, name):
    with pytest.raises(UserError, match="--model_name"):
        package_saved_model(model, name, tmp_path, 1)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_versions_out_of_range_are_refused(model, tmp_path, version):
    with pytest.raises(UserError, match="--version"):
        package_saved_model(model, "faces", tmp_path, version)


def test_only_a_servable_model_is_packaged(model, tmp_path):
    with pytest.raises(UserError, match="not a SavedModel"):
        package_saved_model(tmp_path, "faces", tmp_path / "models", 1)
    with pytest.raises(UserError, match="--base_path"):
        package_saved_model(model, "faces", model / "models", 1)
    assert not (model / "models").exists()
