"""A SavedModel run as TF Serving runs it: in a session that C++ loads."""

import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from tfapprox.errors import UserError
from tfapprox.serving import c_api
from tfapprox.serving.c_api import LoadError
from tfapprox.serving.signature import Signature, TensorSpec, parse_meta_graph, read_signatures

__all__ = ["CcSession", "LoadError"]


class CcSession:
    """A session loaded by TF_LoadSessionFromSavedModel, TensorFlow's C++ loader.

    It imports the graph, restores the variables with the graph's own operations
    and runs the initialiser. Python's object graph and Keras play no part: what
    only they can load fails here, and would fail in TF Serving.

    Example:
      with CcSession("model", threads=1) as session:
          outputs = session.run({"x": x}, "serving_default")

    Attributes:
      path: the directory.
      signatures: name -> `Signature`.
    """

    def __init__(self, path: str, tags: Sequence[str] = ("serve",), threads: int | None = None):
        """Loads `path`.

        Args:
          path: SavedModel directory.
          tags: of the graph to load, all of them.
          threads: of each of the two pools (within and between operations), or
            TensorFlow's default. TensorFlow makes the pool within operations once
            for each process, so the first session, or the first eager operation,
            decides it; see `latency`.

        Raises:
          UserError: no such directory, no SavedModel, no graph with these tags.
          LoadError: the C++ loader refuses it, with TensorFlow's reason.
        """
        self._session = self._graph = None
        self.path = os.fspath(path)
        self.threads = threads
        read_signatures(self.path, tags)  # for its messages: they are clearer than C++'s
        api = c_api.library()
        options, meta = api.TF_NewSessionOptions(), api.TF_NewBuffer()
        graph = api.TF_NewGraph()
        try:
            if threads is not None:
                config = _config_proto(threads)
                with c_api.Status(f"{threads} threads") as status:
                    api.TF_SetConfig(options, config, len(config), status)
            names = (ctypes.c_char_p * len(tags))(*(tag.encode() for tag in tags))
            with c_api.Status(f"{path} can't be loaded by TensorFlow's C++ loader") as status:
                self._session = api.TF_LoadSessionFromSavedModel(
                    options, None, os.fsencode(path), names, len(tags), graph, meta, status
                )
            self._graph, graph = graph, None
            serialized = ctypes.string_at(meta.contents.data, meta.contents.length)
            self.signatures = parse_meta_graph(serialized)
        finally:
            api.TF_DeleteBuffer(meta)
            api.TF_DeleteSessionOptions(options)
            if graph is not None:
                api.TF_DeleteGraph(graph)

    def run(
        self, inputs: Mapping[str, np.ndarray], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Returns the outputs of a signature, by key.

        Args:
          inputs: one array for each input key, of the dtype in the signature; strings
            as arrays of str or bytes.
          signature: its name.

        Raises:
          UserError: no such signature, or inputs that do not fit it.
          LoadError: TensorFlow fails while it runs.
        """
        if self._session is None:
            raise LoadError(f"the session of {self.path} is closed")
        chosen = find_signature(self.signatures, signature, self.path)
        feeds = check_inputs(inputs, chosen, signature)
        specs = [(key, chosen.inputs[key]) for key in feeds]
        sources = self._endpoints(specs)
        targets = self._endpoints(list(chosen.outputs.items()))
        tensors = [c_api.to_tensor(feeds[key], spec.dtype) for key, spec in specs]
        try:
            results = self._call(sources, tensors, targets, signature)
        finally:
            # Only now: an output that is an input passed through shares its memory.
            for tensor, (_, spec) in zip(tensors, specs, strict=True):
                c_api.free_tensor(tensor, spec.dtype)
        return dict(zip(chosen.outputs, results, strict=True))

    def _call(
        self, sources: ctypes.Array, tensors: list[int], targets: ctypes.Array, signature: str
    ) -> list[np.ndarray]:
        values = (ctypes.c_void_p * len(tensors))(*tensors)
        results = (ctypes.c_void_p * len(targets))()
        api = c_api.library()
        with c_api.Status(f"{self.path} fails to run {signature}") as status:
            api.TF_SessionRun(
                *(self._session, None, sources, values, len(tensors)),
                *(targets, results, len(targets), None, 0, None, status),
            )
        try:
            return [c_api.from_tensor(result) for result in results if result]
        finally:
            for result in filter(None, results):
                c_api.free_tensor(result)

    def _endpoints(self, specs: Sequence[tuple[str, TensorSpec]]) -> ctypes.Array:
        endpoints = (c_api.Output * len(specs))()
        for slot, (key, spec) in enumerate(specs):
            name, _, index = spec.name.partition(":")
            operation = c_api.library().TF_GraphOperationByName(self._graph, name.encode())
            if not name or not operation:
                raise LoadError(f"{self.path}: {key!r} is no plain tensor of the graph ({name!r})")
            endpoints[slot] = c_api.Output(operation, int(index or 0))
        return endpoints

    def close(self) -> None:
        """Frees the session; closing twice does no harm."""
        api = c_api.library()
        if self._session is not None:
            with c_api.Status(f"closing {self.path}") as status:
                api.TF_CloseSession(self._session, status)
            with c_api.Status(f"closing {self.path}") as status:
                api.TF_DeleteSession(self._session, status)
        if self._graph is not None:
            api.TF_DeleteGraph(self._graph)
        self._session = self._graph = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._session is not None or self._graph is not None:
            self.close()


def find_signature(signatures: Mapping[str, Signature], name: str, path: str) -> Signature:
    """Returns the signature called `name`.

    Raises:
      UserError: there is none; the message lists those that exist.
    """
    if name not in signatures:
        raise UserError(
            f"{path} has no signature {name!r}; it has {', '.join(sorted(signatures)) or 'none'}"
        )
    return signatures[name]


def check_inputs(
    inputs: Mapping[str, np.ndarray], signature: Signature, name: str
) -> dict[str, np.ndarray]:
    """Returns the arrays for a signature, called `name` in messages, in its order.

    Raises:
      UserError: missing or extra keys, or an array that does not fit.
    """
    feeds = {key: _checked(key, spec, inputs) for key, spec in signature.inputs.items()}
    unknown = sorted(set(inputs) - set(feeds))
    if unknown:
        raise UserError(f"no input {unknown[0]!r}; {name} takes {sorted(feeds)}")
    return feeds


def _checked(key: str, spec: TensorSpec, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the array for one input.

    The C API checks neither: a wrong dtype would be read as if it were the right one.
    """
    if key not in inputs:
        raise UserError(f"input {key!r} is missing; it is {spec}")
    array = np.asarray(inputs[key])
    is_text = array.dtype.kind in "OSU"
    if is_text != (spec.dtype == "string") or (not is_text and array.dtype != spec.numpy_dtype()):
        raise UserError(f"input {key!r} must be {spec}, got {array.dtype}")
    if not spec.admits(array.shape):
        raise UserError(f"input {key!r} must be {spec}, got shape {list(array.shape)}")
    return array


def _config_proto(threads: int) -> bytes:
    """Returns ConfigProto with both thread pools of that size, each session its own.

    The fields are intra_op_parallelism_threads = 2, inter_op_parallelism_threads = 5
    and use_per_session_threads = 9, all varints.
    """
    if not 1 <= threads <= 127:  # one byte holds a varint up to 127
        raise UserError(f"threads must be 1 to 127, got {threads}")
    return bytes([2 << 3, threads, 5 << 3, threads, 9 << 3, 1])
