"""Two devices, and two workers, train as one process does."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.reference import distributed_training
from tfapprox.errors import UserError
from tfapprox.training import best_epoch, multi_worker
from tfapprox.training.best_epoch import BestEpochTraining

NAMES = {"mirrored": "MirroredStrategy", "multi_worker": "CollectiveAllReduceStrategy"}


def launch(strategy, folder, **variables):
    # The number of devices and the cluster are chosen once a process.
    command = [sys.executable, "-m", "tests.reference.distributed_training", strategy, str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **variables}, **pipes)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def collect(processes):
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    results = []
    for process, (output, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
        results.append(json.loads(output.splitlines()[-1]))
    return results


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return distributed_training.run("none", tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=NAMES)
def together(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    if request.param == "mirrored":
        return request.param, collect([launch("mirrored", folder)])
    workers = [f"localhost:{port}" for port in free_ports(2)]
    configs = [
        json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
        for index in (0, 1)
    ]
    return request.param, collect(
        [launch("multi_worker", folder, TF_CONFIG=config) for config in configs]
    )


@pytest.mark.parametrize("kind", ["csg", "decompose"])
def test_exact_trainings_come_to_the_numbers_of_a_single_process(alone, together, kind):
    for result in together[1]:
        for name in ("losses", "evaluated"):
            np.testing.assert_allclose(result[kind][name], alone[kind][name], rtol=1e-4)
        for ours, theirs in zip(result[kind]["weights"], alone[kind]["weights"], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_sampled_training_learns_with_each_replica_drawing_for_itself(alone, together):
    for result in together[1]:
        assert result["crs"]["losses"][-1] < result["crs"]["losses"][0]
        assert result["crs"]["losses"] != alone["crs"]["losses"]


@pytest.mark.parametrize("kind", ["crs", "csg", "decompose"])
def test_models_stay_with_their_strategy_and_workers_agree(together, kind):
    strategy, results = together
    for result in results:
        assert result[kind]["strategy"] == result[kind]["optimizer"] == NAMES[strategy]
        assert result[kind] == results[0][kind]


def test_the_chiefs_text_and_weights_are_everyones():
    # A strategy of one worker: this process is the chief, and gets its own back.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = distributed_training.build("csg")
    before = [w.numpy() for w in model.weights]
    multi_worker.take_from_chief(model)
    for ours, theirs in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)
    assert multi_worker.is_chief(model)
    assert multi_worker.text_of_chief(model, "höchstens") == "höchstens"


def test_pipelines_that_keep_the_best_epoch_refuse_workers(monkeypatch, tmp_path):
    monkeypatch.setattr(best_epoch, "is_multi_worker", lambda model: True)
    with pytest.raises(UserError, match="MirroredStrategy"):
        BestEpochTraining(None, 0, (1, 1)).train(None, tmp_path, range(1), "alds", 0.5)
