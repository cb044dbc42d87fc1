"""What docs/serving.md says can be done: every local part is done here, in its order."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.quick_timing import measure_here
from tfapprox.cli.main import execute
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.inputs import read_inputs
from tfapprox.serving.warmup import WARMUP_FILE

pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def blocks(language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def commands(program):
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(program + " ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with `model` and `inputs.npz`, in which the page's commands have run."""
    path = tmp_path_factory.mktemp("serving")
    rng = np.random.default_rng(0)
    module = tf.Module()
    low_rank = rng.standard_normal((64, 8)) @ rng.standard_normal((8, 96)) / 64
    module.kernel = tf.Variable(low_rank.astype(np.float32))
    spec = tf.TensorSpec([None, 64], name="x")
    serve = tf.function(lambda x: {"y": x @ module.kernel}, input_signature=[spec])
    tf.saved_model.save(module, str(path / "model"), signatures={"serving_default": serve})
    np.savez(path / "inputs.npz", x=rng.standard_normal((16, 64)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr("tfapprox.compression.timing.measure_saved_models", measure_here)
        for words in commands("tfapprox"):
            assert execute(words[1:]) == 0, words
    return path


def test_every_tfapprox_command_works_in_the_page_s_order(folder):
    assert (folder / "models" / "net" / "2" / WARMUP_FILE).is_file()
    x = {"x": np.load(folder / "inputs.npz")["x"]}
    answers = []
    for path in ("models/net/1", "models/net/2", "dense"):
        with CcSession(str(folder / path)) as session:
            answers.append(session.run(x)["y"])
    np.testing.assert_allclose(answers[2], answers[1], atol=1e-5 * np.abs(answers[1]).max())
    np.testing.assert_allclose(answers[1], answers[0], atol=0.1 * np.abs(answers[0]).max())


def test_the_rest_request_fits_the_signature(folder, monkeypatch):
    monkeypatch.chdir(folder)
    _, make_request = blocks("python")
    exec(compile(make_request, "docs/serving.md", "exec"), {})
    body = json.loads((folder / "request.json").read_text())
    with CcSession("small") as session:
        signature = session.signatures[body["signature_name"]]
        arrays = {k: np.array(v, signature.inputs[k].dtype) for k, v in body["inputs"].items()}
        assert session.run(arrays, body["signature_name"])["y"].shape == (16, 96)


def test_the_grpc_client_gets_the_model_s_outputs(folder, monkeypatch):
    from benchmarks.serving_load import served

    monkeypatch.chdir(folder)
    with served("small", threads=1) as address, CcSession("small") as session:
        client = blocks("python")[0].replace("localhost:8500", address)
        names = {}
        exec(compile(client, "docs/serving.md", "exec"), names)
        want = session.run(read_inputs("inputs.npz", session.signatures["serving_default"]))
    np.testing.assert_array_equal(names["outputs"]["y"], want["y"])


def test_saved_model_cli_runs_the_result(folder):
    (words,) = commands("saved_model_cli")
    program = "from tensorflow.python.tools.saved_model_cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words[1:]],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Result for output key y" in done.stdout


def test_the_canary_config_is_one_that_the_server_reads(folder):
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    (text,) = [block for block in blocks("") if "model_config_list" in block]
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    served = model.model_version_policy.specific.versions
    assert set(model.version_labels.values()) == set(served) == {1, 2}
    (package,) = {words[words.index("--model_name") + 1] for words in commands("tfapprox package")}
    assert model.name == package and model.base_path == f"/models/{package}"
    for version in served:
        assert (folder / "models" / model.name / str(version) / "saved_model.pb").is_file()


def test_the_batching_config_allows_what_it_limits():
    (text,) = [block for block in blocks("") if "max_batch_size" in block]
    wrapped = dict(re.findall(r"^(\w+) \{ value: (\d+) \}$", text, re.MULTILINE))
    sizes = [int(n) for n in re.findall(r"^allowed_batch_sizes: (\d+)$", text, re.MULTILINE)]
    assert len(text.splitlines()) == len(wrapped) + len(sizes)
    # TF Serving asks for ascending sizes, of which the last is the largest batch.
    assert sizes == sorted(sizes) and sizes[-1] == int(wrapped["max_batch_size"])


def test_docker_commands_mount_and_name_what_the_page_lays_out():
    for words in commands("docker"):
        assert "tensorflow/serving" in words and "$PWD/models:/models" in words
        paths = [w.partition("=")[2] for w in words if "=/models/" in w]
        named = {"/models/net", "/models/batching.config", "/models/model.config"}
        assert paths and set(paths) <= named
        assert all(f"`{p.lstrip('/')}`" in PAGE for p in paths if p.endswith(".config"))
