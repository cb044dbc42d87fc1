"""Nothing is written outside the directory that the user names."""

import pytest

from tests.security.hostile import CONFIG, edit
from tfapprox.compression import compress_saved_model
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model import open_saved_model
from tfapprox.serving.package import package_saved_model


def test_names_of_sites_and_assets_can_t_leave_the_output_directory(model, tmp_path):
    def rename(meta):
        for node in meta.object_graph_def.nodes:
            if node.WhichOneof("kind") == "variable":
                node.variable.name = "../../../escaped/kernel"

    edit(model, rename)
    compress_saved_model(model, tmp_path / "out" / "small", CONFIG, batch_sizes=(), run=False)
    assert {p.name for p in tmp_path.iterdir()} == {"model", "out"}
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["small"]


@pytest.mark.parametrize("name", ["../../secret.txt", "/etc/passwd", "a/../../b"])
def test_assets_outside_the_model_are_refused(model, name):
    edit(model, lambda meta: meta.asset_file_def.add(filename=name))
    with pytest.raises(UserError, match="outside its own directory"):
        open_saved_model(model)


def test_links_out_of_the_model_are_not_followed_into_the_result(model, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (model / "assets.extra").mkdir()
    (model / "assets.extra" / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"is a link to .*secret, outside the SavedModel"):
        compress_saved_model(model, tmp_path / "small", CONFIG, batch_sizes=(), run=False)
    with pytest.raises(UserError, match="outside the SavedModel"):
        package_saved_model(model, "name", tmp_path / "models")
    assert not (tmp_path / "small").exists() and not (tmp_path / "models" / "name" / "1").exists()
