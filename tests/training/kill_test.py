"""Killed by SIGKILL again and again, at bad moments, both pipelines end as if they were not."""

import json
import multiprocessing
import signal

from tests.reference import killable_training

# Each continues where the one before was killed.
MOMENTS = (
    ("batch", 7),  # in the second epoch, the first that is decomposed
    ("write", 25),  # in the middle of the file that keeps an epoch
    ("rename", 2),  # between that file's end and its taking effect
    ("save", 1),  # while the dense model is handed over
    ("rename", 8),
)


def test_runs_that_are_killed_come_to_the_numbers_of_one_that_is_not(tmp_path):
    # The server imports TensorFlow once; what it forks starts in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([killable_training.__name__])

    def launch(name, moment="", count=0):
        target, results = killable_training.main, tmp_path / f"{name}.json"
        process = context.Process(target=target, args=(tmp_path / name, results, moment, count))
        process.start()
        process.join()
        return process.exitcode

    for moment in MOMENTS:
        assert launch("killed", *moment) == -signal.SIGKILL, moment
    assert launch("killed") == launch("whole") == 0
    killed, whole = (json.loads((tmp_path / f"{x}.json").read_text()) for x in ("killed", "whole"))
    assert killed == whole
