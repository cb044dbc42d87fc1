"""`tfapprox compress --decompositions crs`."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory) -> str:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    module = tf.Module()
    module.kernels = [
        tf.Variable(rng.normal(0, 0.2, (32, 32)).astype(np.float32)) for _ in range(2)
    ]

    @tf.function(input_signature=[tf.TensorSpec([None, 32], tf.float32, name="x")])
    def serve(x):
        for kernel in module.kernels:
            x = tf.tanh(x @ kernel)
        return {"y": x}

    path = tmp_path_factory.mktemp("sampling") / "model"
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    return str(path)


def test_products_are_sampled_and_the_error_told(tfapprox_run, model, tmp_path):
    command = "compress", "--dir", model, "--output_dir", tmp_path / "out"
    flags = "--decompositions", "crs", "--sampling_ratio", "0.5", "--json"
    status, out, err = tfapprox_run(*command, *flags)
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert [site["choice"]["pairs"] for site in result["plan"]["sites"]] == [16, 16]
    assert (result["before"]["macs"], result["after"]["macs"]) == (2048, 1024 + 2 * 32)
    assert 0 < result["verification"]["outputs"][0]["relative_error"] < 1
    status, out, _ = tfapprox_run("inspect", "--dir", tmp_path / "out", "--json")
    assert status == 0 and json.loads(out)["compressed_by"]["settings"]["sampling_ratio"] == 0.5
    dense = "restore", "--dir", tmp_path / "out", "--output_dir", tmp_path / "dense"
    status, out, _ = tfapprox_run(*dense, "--json")
    assert status == 0 and len(json.loads(out)["restored"]) == 2


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--decompositions", "crs"), "needs --sampling_ratio"),
        (("--decompositions", "crs,svd", "--sampling_ratio", "0.5"), "stands alone"),
        (("--decompositions", "crs", "--sampling_ratio", "2"), "ratio must be"),
        (("--decompositions", "crs", "--sampling_ratio", "0.5", "--keep_macs", "0.5"), "keep_macs"),
        (("--sampling_ratio", "0.5", "--keep_macs", "0.5"), "belongs to"),
        (("--decompositions", "crs", "--objective", "latency"), "--objective has no meaning"),
        (("--decompositions", "crs", "--evbmf_floor", "2"), "--evbmf_floor has no meaning"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tfapprox_run, model, tmp_path, flags, complaint):
    command = "compress", "--dir", model, "--output_dir", tmp_path / "out"
    status, _, err = tfapprox_run(*command, *flags)
    assert status != 0 and complaint in err
