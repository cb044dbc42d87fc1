"""Two devices, and two workers, train as one process does."""

import json
import multiprocessing
import socket

import numpy as np
import pytest
import tensorflow as tf

from tests.reference import distributed_training
from tfapprox.errors import UserError
from tfapprox.training import best_epoch, multi_worker
from tfapprox.training.best_epoch import BestEpochTraining

NAMES = {"mirrored": "MirroredStrategy", "multi_worker": "CollectiveAllReduceStrategy"}


def launch(jobs):
    """Runs `distributed_training.main` in a process for each job's arguments, side by side."""
    # The number of devices and the cluster are chosen once a process. The server imports
    # TensorFlow once; what it forks starts in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([distributed_training.__name__])
    processes = [context.Process(target=distributed_training.main, args=job) for job in jobs]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(900)
        assert [process.exitcode for process in processes] == [0] * len(jobs)
    finally:
        for process in processes:
            process.kill()
    return [json.loads(results.read_text()) for _, _, results, *_ in jobs]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return distributed_training.run("none", tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=NAMES)
def together(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    if request.param == "mirrored":
        return request.param, launch([("mirrored", folder, folder / "results.json")])
    workers = [f"localhost:{port}" for port in free_ports(2)]
    jobs = []
    for index in (0, 1):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        jobs.append(("multi_worker", folder, folder / f"{index}.json", json.dumps(task)))
    return request.param, launch(jobs)


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
        assert result["crs"]["draws"] == alone["crs"]["draws"] == 8  # one each step
    replica, other = (drawn for result in together[1] for drawn in result["drawn"])
    assert not np.allclose(replica, other)


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
