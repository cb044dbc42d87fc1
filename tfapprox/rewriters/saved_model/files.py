"""Opens the files of a SavedModel and says in one line what is wrong with them."""

import contextlib
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import message, text_format
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfapprox.errors import UserError
from tfapprox.rewriters.publish import check_inside

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VARIABLES = Path("variables", "variables")


class SavedModelFiles:
    """A SavedModel directory: its protos and its checkpoint.

    Attributes:
      path: the directory.
      proto: the whole SavedModel message.
      meta: the MetaGraph that carries `tags`.
    """

    def __init__(self, path: str | Path, tags: Sequence[str]):
        """Opens the directory.

        Raises:
          UserError: it is no SavedModel, or damaged, or has no MetaGraph with `tags`, or
            names assets outside itself.
        """
        self.path = Path(path)
        self.proto = _read_proto(self.path)
        self.meta = _find_meta_graph(self.proto, tags, self.path)
        _check_assets(self.meta, self.path)
        self._reader = _open_checkpoint(self.path / _VARIABLES)

    @functools.cached_property
    def tensor_shapes(self) -> dict[str, list[int]]:
        """Checkpoint tensor name -> shape; empty when nothing is stored."""
        return self._reader.get_variable_to_shape_map() if self._reader else {}

    def tensor(self, name: str) -> np.ndarray:
        """Reads a tensor of the checkpoint.

        Raises:
          UserError: it isn't there, or the file is truncated or corrupt.
        """
        self.check_present([name])
        with _explained(self.path / "variables"):
            value = self._reader.get_tensor(name)
        # NumPy's own bytes dtype would drop trailing zero bytes.
        return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)

    def check_present(self, names: Iterable[str]) -> None:
        """Checks that the checkpoint holds tensors of these names.

        Raises:
          UserError: one is missing.
        """
        for name in names:
            if name not in self.tensor_shapes:
                raise UserError(
                    f"{self.path / 'variables'} has no value for variable {name!r}: the files "
                    "do not belong together; copy the whole SavedModel again"
                )

    def check_tensors(self) -> None:
        """Reads every tensor once, so that a truncated file is found before any work.

        Raises:
          UserError: a tensor can't be read.
        """
        stored = sum(file.stat().st_size for file in self.path.glob(f"{_VARIABLES}.data-*"))
        for name, shape in self.tensor_shapes.items():
            # An entry takes a byte at least: no more is allocated than the files can hold.
            if math.prod(shape) > stored:
                raise UserError(
                    f"{self.path / 'variables'} is damaged: it holds {stored} bytes, and "
                    f"{name!r} is said to have shape {list(shape)}; copy the model again"
                )
            self.tensor(name)

    def other_files(self) -> Iterator[Path]:
        """Yields the relative paths of files that a rewrite copies as they are.

        Raises:
          UserError: one is a link that leads out of the directory.
        """
        rewritten = {"saved_model.pb", "saved_model.pbtxt", "fingerprint.pb", "keras_metadata.pb"}
        for file in sorted(self.path.rglob("*")):
            relative = file.relative_to(self.path)
            if file.is_file() and relative.parts[0] not in rewritten | {"variables"}:
                check_inside(file, self.path)
                yield relative


def _check_assets(meta: meta_graph_pb2.MetaGraphDef, path: Path) -> None:
    for asset in meta.asset_file_def:
        name = PurePosixPath(asset.filename)
        if name.is_absolute() or ".." in name.parts:
            raise UserError(
                f"{path / 'saved_model.pb'} names the asset {asset.filename!r}, outside its own "
                "directory: don't load it, and get the model from somewhere else"
            )


def _read_proto(path: Path) -> saved_model_pb2.SavedModel:
    binary, text = path / "saved_model.pb", path / "saved_model.pbtxt"
    if not path.exists():
        raise UserError(f"no such directory: {path}")
    if not path.is_dir():
        raise UserError(
            f"{path} is a file; name the directory of a SavedModel, which model.export writes"
        )
    if not binary.is_file() and not text.is_file():
        raise UserError(f"{path} is not a SavedModel: it has no saved_model.pb{_hint(path)}")
    proto = saved_model_pb2.SavedModel()
    try:
        if binary.is_file():
            proto.ParseFromString(binary.read_bytes())
        else:
            text_format.Parse(text.read_text(), proto)
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        file = binary if binary.is_file() else text
        raise UserError(
            f"{file} can't be read, it is truncated or no SavedModel: export the model again"
        ) from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    return proto


def _hint(path: Path) -> str:
    for child in sorted(path.iterdir(), reverse=True):
        if (child / "saved_model.pb").is_file():
            return f"; did you mean {child}?"
    if (path / "saved_model.cpb").is_file():
        return ", and the chunked form saved_model.cpb is not supported"
    return ""


def _find_meta_graph(
    proto: saved_model_pb2.SavedModel, tags: Sequence[str], path: Path
) -> meta_graph_pb2.MetaGraphDef:
    for meta in proto.meta_graphs:
        if set(meta.meta_info_def.tags) == set(tags):
            return meta
    if not proto.meta_graphs:
        raise UserError(
            f"{path / 'saved_model.pb'} holds no graph, it is truncated: export the model again"
        )
    known = [",".join(meta.meta_info_def.tags) or "(none)" for meta in proto.meta_graphs]
    raise UserError(
        f"{path} has no graph with tag set {','.join(tags)!r}; choose --tag_set among "
        f"{', '.join(known)}"
    )


def _open_checkpoint(prefix: Path) -> Any:
    if not prefix.parent.is_dir():
        return None
    index = prefix.with_name("variables.index")
    if not index.is_file():
        if any(prefix.parent.glob("variables.data-*")):
            raise UserError(f"{index} is missing: copy the whole SavedModel again")
        return None
    with _explained(prefix.parent):
        return tf.train.load_checkpoint(str(prefix))


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    # The checkpoint reader tells of a short read by an IndexError.
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError, SystemError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{folder} can't be read, its files are truncated, damaged or missing: "
            "copy or export the model again"
        ) from error


def strings_of(tensor: tensor_pb2.TensorProto) -> list[str]:
    """Returns the entries of a string tensor proto, repeated ones spelled out."""
    return [x.decode() for x in tf.make_ndarray(tensor).reshape(-1).tolist()]
