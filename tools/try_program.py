"""Imports all of the installed package and compresses a small SavedModel by its program.

In the folder it is run in. For clean environments: it needs nothing but what the package
itself requires, so no module may want an extra before it is used.
"""

import importlib
import json
import pkgutil
import subprocess
import sys

import numpy as np
import tensorflow as tf

import tfapprox


def write_model(path: str) -> None:
    """Writes two dense layers of rank 16 and full rank."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(128, 16)) @ rng.normal(size=(16, 128)) / 40
    module = tf.Module()
    module.first = tf.Variable(first, dtype=tf.float32)
    module.second = tf.Variable(rng.normal(size=(128, 10)) / 11, dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 128], tf.float32, name="x")])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.nn.relu(x @ module.first) @ module.second}

    module.serve = serve
    tf.saved_model.save(module, path, signatures={"serving_default": serve})


def import_everything() -> int:
    """Returns how many modules the package has, after importing each."""
    names = [module.name for module in pkgutil.walk_packages(tfapprox.__path__, "tfapprox.")]
    for name in names:
        if name != "tfapprox.__main__":
            importlib.import_module(name)
    return len(names)


def run(*arguments: str) -> str:
    """Returns what `tfapprox ARGUMENTS` prints.

    Raises:
      SystemExit: it failed, with what it said.
    """
    command = [sys.executable, "-m", "tfapprox", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: status {done.returncode}\n{done.stderr}")
    return done.stdout


def main() -> None:
    print(f"{import_everything()} modules in {tfapprox.__path__[0]}")
    write_model("model")
    order = ("--dir=model", "--output_dir=small", "--keep_params=0.4", "--json")
    report = json.loads(run("compress", *order))
    kept = report["after"]["params"] / report["before"]["params"]
    if kept > 0.4 or report["verification"]["failures"]:
        sys.exit(f"kept {kept:.1%} of the parameters; {report['verification']['failures']}")
    run("verify", "--dir=small", "--against=model")
    print(f"kept {kept:.1%} of the parameters, error {report['verification']['outputs']}")
    print(report["environment"])


if __name__ == "__main__":
    main()
