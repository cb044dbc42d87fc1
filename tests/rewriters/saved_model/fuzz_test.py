"""Random small graphs, and mutated files, end in a verified result or in a clear refusal."""

import itertools
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2

from tests.corpus.building import Arrays, activations, export, weights
from tests.rewriters.saved_model.contract_test import (
    relative_error,
    run_cc,
    run_python,
    truncated,
)
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model import open_saved_model, write_saved_model
from tfapprox.rewriters.verify import verify_saved_model

_SIZE = 12  # of every tensor's last axis, so that any operation may follow any other
_Step = tuple[str, int, int]
_Operation = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def _loop(x: tf.Tensor, _: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    def body(i: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return i + 1, tf.tanh(y @ w)

    return tf.while_loop(lambda i, y: i < 2, body, [tf.constant(0), x])[1]


def _branch(x: tf.Tensor, y: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.reduce_sum(y) > 0, lambda: x @ w, lambda: tf.matmul(y, w, transpose_b=True))


def _nested(x: tf.Tensor, y: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    @tf.function(autograph=False)
    def inner(a: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(a @ kernel)

    return inner(x, w) + inner(y, tf.transpose(w))


def _pieces(x: tf.Tensor, y: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    left, right = tf.split(w, 2, axis=1)
    return tf.concat([x @ left, y @ right], axis=1)


def _attention(x: tf.Tensor, y: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax(tf.matmul(x @ w, y, transpose_b=True)) @ y


_OPERATIONS: dict[str, _Operation] = {
    "matmul": lambda x, y, w: x @ w,
    "transposed": lambda x, y, w: tf.matmul(x, w, transpose_b=True),
    "on the left": lambda x, y, w: tf.transpose(tf.matmul(w, x, transpose_b=True)),
    "einsum": lambda x, y, w: tf.einsum("ab,bc->ac", x, w),
    "heads": lambda x, y, w: tf.reshape(
        tf.einsum("ab,bcd->acd", x, tf.reshape(w, [_SIZE, 3, -1])), [-1, _SIZE]
    ),
    "convolution": lambda x, y, w: tf.nn.conv1d(
        x[None], tf.reshape(w, [1, _SIZE, _SIZE]), 1, "SAME"
    )[0],
    "scaled": lambda x, y, w: x @ (w * 0.5),
    "half": lambda x, y, w: tf.cast(tf.cast(x, tf.float64) @ tf.cast(w, tf.float64), tf.float32),
    "read whole": lambda x, y, w: x @ w + tf.reduce_sum(w),
    "looked up": lambda x, y, w: tf.gather(w, tf.argmax(x, axis=1)),
    "sum": lambda x, y, w: x + y,
    "rectified": lambda x, y, w: tf.nn.relu(x),
    "random": lambda x, y, w: x + 0 * tf.random.stateless_uniform(tf.shape(x), [1, 2]),
    "loop": _loop,
    "branch": _branch,
    "nested": _nested,
    "pieces": _pieces,
    "attention": _attention,
}
_STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(_OPERATIONS)), st.integers(0, 3), st.integers(0, 3)),
    min_size=2,
    max_size=7,
)


def build(path: Path, steps: list[_Step]) -> None:
    """Saves a graph of steps: operation, which earlier tensor, which kernel."""
    kernels: list = [tf.Variable(weights(_SIZE, _SIZE, seed=i), name=f"w{i}") for i in range(3)]
    kernels.append(weights(_SIZE, _SIZE, seed=3))  # and a constant

    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        tensors = [x, tf.tanh(x)]
        for name, tensor, kernel in steps:
            other = tensors[tensor % len(tensors)]
            w = tf.convert_to_tensor(kernels[kernel])
            tensors.append(_OPERATIONS[name](tensors[-1], other, w))
        return {"y": tensors[-1], "z": tensors[-2]}

    export(path, serve, {"x": activations(4, _SIZE)}, {f"w{i}": kernels[i] for i in range(3)})


_FOLDERS = itertools.count()


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=_STEPS)
@example(steps=[("attention", 0, 0), ("random", 0, 0)])  # reads a kernel that it does not use
def test_a_random_graph_is_rewritten_as_it_was_or_refused(tmp_path, steps):
    folder = tmp_path / str(next(_FOLDERS))
    build(folder / "source", steps)
    try:
        source = open_saved_model(folder / "source")
        replacements = {site.name: truncated(site) for site in source.inspection.sites}
        write_saved_model(source, replacements, folder / "out")
    except UserError as error:
        assert "damaged" not in str(error), steps
        return
    verification = verify_saved_model(
        str(folder / "out"), str(folder / "source"), max_relative_error=1e-4
    )
    assert verification.passed, (steps, verification.failures)


def _break_bytes(victim: Path, chance: random.Random) -> None:
    content = bytearray(victim.read_bytes())
    for _ in range(chance.choice([1, 3, 30])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    victim.write_bytes(content)


def _cut(victim: Path, chance: random.Random) -> None:
    content = victim.read_bytes()
    victim.write_bytes(content[: chance.randrange(len(content))])


def _double(victim: Path, chance: random.Random) -> None:
    content = victim.read_bytes()
    start = chance.randrange(len(content))
    victim.write_bytes(content + content[start:])


def _break_graph(victim: Path, chance: random.Random) -> None:
    """Breaks nodes, attributes, functions or objects of a graph that can still be parsed."""
    victim = victim.parent / "saved_model.pb"
    if not victim.is_file():
        victim = victim.parent.parent / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(victim.read_bytes())
    meta = model.meta_graphs[0]
    library, objects = meta.graph_def.library.function, meta.object_graph_def
    nodes = chance.choice([meta.graph_def.node, *(f.node_def for f in library)])
    node, function = chance.choice(nodes), chance.choice(library)
    kind = chance.randrange(9)
    if kind == 0:
        nodes.remove(node)
    elif kind == 1:
        node.op = chance.choice(["MatMul", "Identity", "ReadVariableOp", "While", "NoSuchThing"])
    elif kind == 2 and node.attr:
        del node.attr[chance.choice(sorted(node.attr))]
    elif kind == 3 and node.attr:
        node.attr[chance.choice(sorted(node.attr))].i = chance.randrange(-2, 100)
    elif kind == 4 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(nodes).name
    elif kind == 5:
        library.remove(function)
    elif kind == 6 and function.signature.input_arg:
        del function.signature.input_arg[-1]
    elif kind == 7 and function.ret:
        function.ret[chance.choice(sorted(function.ret))] = "nowhere:output:0"
    else:
        called = chance.choice(list(objects.concrete_functions.values()))
        called.bound_inputs.append(chance.randrange(2 * len(objects.nodes)))
    victim.write_bytes(model.SerializeToString())


_DAMAGE = (_break_bytes, _break_bytes, _cut, _double, _break_graph, _break_graph, _break_graph)


def test_damaged_copies_are_refused_or_rewritten_as_they_are(tmp_path):
    # In a process of its own the same bytes are written every time: names count functions.
    code = f"from {__name__} import build; build(__import__('pathlib').Path(r'{tmp_path}/source'), "
    code += "[('loop', 0, 0), ('nested', 1, 1), ('pieces', 1, 3)])"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)
    files = sorted(f for f in (tmp_path / "source").rglob("*") if f.is_file() and f.stat().st_size)
    chance = random.Random(0)
    written = []
    for number in range(40):
        copy = shutil.copytree(tmp_path / "source", tmp_path / f"copy{number}")
        victim = copy / chance.choice(files).relative_to(tmp_path / "source")
        chance.choice(_DAMAGE)(victim, chance)
        try:
            source = open_saved_model(copy)
            sites = {site.name: truncated(site) for site in source.inspection.sites}
            write_saved_model(source, sites, copy / "out")
        except UserError as error:
            assert "\n" not in str(error)
            continue
        written.append(copy)
    same = 0
    for copy, loader, outcome in _outcomes(written):
        assert not outcome.startswith("runs:") or outcome == "runs:same", (copy, loader, outcome)
        same += outcome == "runs:same"
    assert len(written) < 32 and same > 6


_Unit = tuple[Path, str]  # a copy, and what to load it with


def _outcomes(copies: list[Path]) -> Iterator[tuple[Path, str, str]]:
    """Yields what `compare` says of every copy, in processes that may crash or hang.

    A damaged graph may hold a loop that never ends, or bring TensorFlow down.
    """
    left: list[_Unit] = [(copy, loader) for copy in copies for loader in ("python", "cc")]
    while left:
        lines = "\n".join(f"{loader} {copy}" for copy, loader in left)
        command = [sys.executable, "-m", "tests.rewriters.saved_model.fuzz_test"]
        try:
            done = subprocess.run(
                command,
                input=lines.encode(),
                capture_output=True,
                cwd=Path(__file__).parents[3],
                check=False,
                timeout=900,
            ).stdout
        except subprocess.TimeoutExpired as expired:
            done = expired.stdout or b""
        *finished, last = done.decode().split("\n")
        for (copy, loader), outcome in zip(left, finished, strict=False):
            yield copy, loader, outcome
        if len(finished) < len(left):
            copy, loader = left[len(finished)]
            yield copy, loader, f"{last}crashed or hung"
        left = left[len(finished) + 1 :]


def compare(copy: Path, run: Callable[[Path, Arrays], Arrays]) -> None:
    """Prints "fails", or "runs:" and, of the rewritten copy, "same" or what is wrong."""
    inputs = {"x": activations(4, _SIZE)}
    try:
        want = run(copy, inputs)
    except Exception:  # TensorFlow raises a dozen kinds on damaged graphs
        print("fails", flush=True)
        return
    print("runs:", end="", flush=True)
    try:
        error = relative_error(run(copy / "out", inputs), want)
    except Exception as problem:
        print(repr(problem).replace("\n", " "), flush=True)
        return
    finite = all(np.isfinite(value).all() for value in want.values())
    print(f"off by {error}" if finite and error >= 1e-3 else "same", flush=True)


if __name__ == "__main__":
    for line in sys.stdin.read().splitlines():
        kind, _, where = line.partition(" ")
        compare(Path(where), {"python": run_python, "cc": run_cc}[kind])
