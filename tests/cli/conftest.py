"""A tiny SavedModel with one kernel that pays to factorize, and one that does not."""

import numpy as np
import pytest


def _module(tf, low_rank):
    class Net(tf.Module):
        def __init__(self):
            self.wide = tf.Variable(low_rank)
            self.narrow = tf.Variable(np.ones((96, 3), np.float32) / 96)

        @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, name="x")])
        def serve(self, x):
            return {"y": tf.nn.relu(x @ self.wide) @ self.narrow}

    return Net()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Directory of the SavedModel: signature serving_default, input x [?, 64], output y [?, 3]."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    low_rank = rng.standard_normal((64, 8)) @ rng.standard_normal((8, 96)) / 64
    noise = rng.standard_normal((64, 96)) * 1e-3
    net = _module(tf, (low_rank + noise).astype(np.float32))
    path = tmp_path_factory.mktemp("cli") / "model"
    tf.saved_model.save(net, str(path), signatures={"serving_default": net.serve})
    return str(path)


@pytest.fixture(scope="session")
def other_model(model, tmp_path_factory):
    """The same signature, other numbers."""
    import tensorflow as tf

    net = _module(tf, np.eye(64, 96, dtype=np.float32))
    path = tmp_path_factory.mktemp("cli") / "other"
    tf.saved_model.save(net, str(path), signatures={"serving_default": net.serve})
    return str(path)


@pytest.fixture
def inputs(tmp_path):
    """Path of an .npz file that fits the signature."""
    x = np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", x=x)
    return str(tmp_path / "inputs.npz")


@pytest.fixture
def tfapprox_run(capsys, measured_here):
    """Runs a command line; returns the exit status, standard output and standard error."""
    from tfapprox.cli.main import execute

    def run(*argv):
        try:
            status = execute([str(part) for part in argv])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def refused(tfapprox_run):
    """Runs a command line that must be refused with status 2, and returns its one line."""

    def run(*argv):
        status, out, err = tfapprox_run(*argv)
        assert (status, out) == (2, ""), err
        (line,) = err.splitlines()
        assert line.startswith("tfapprox: error: ")
        return line

    return run
