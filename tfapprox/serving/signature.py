"""Signatures of a SavedModel, read from its protocol buffer without TensorFlow.

Importing TensorFlow takes seconds, and importing its generated protobuf classes
imports all of it. The few messages that describe a signature are therefore
declared here, with the field numbers of tensorflow/core/protobuf/meta_graph.proto;
protobuf skips the fields that are not declared.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
)

from tfapprox.errors import UserError

# tensorflow.DataType -> name; the names are numpy's, but for bfloat16, the float8
# types and string.
DTYPE_NAMES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    8: "complex64",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
      name: of the tensor in the graph, e.g. "serving_default_x:0"; "" for sparse and
        composite tensors, which have no single one.
      dtype: as numpy calls it, or "string", "bfloat16"; "unknown" for the rest.
      shape: None for an unknown size; None altogether for an unknown rank.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def numpy_dtype(self) -> np.dtype:
        """Returns the dtype of arrays that hold such a tensor; strings are objects."""
        return numpy_dtype(self.dtype)

    def admits(self, shape: Sequence[int]) -> bool:
        """Says whether an array of this shape fits."""
        if self.shape is None:
            return True
        fits = (want in (None, got) for want, got in zip(self.shape, shape, strict=False))
        return len(shape) == len(self.shape) and all(fits)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of unknown rank"
        return f"{self.dtype} [{', '.join('?' if n is None else str(n) for n in self.shape)}]"


@dataclasses.dataclass(frozen=True)
class Signature:
    """Inputs and outputs by their keys, as TF Serving sees them."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = ""


def numpy_dtype(name: str) -> np.dtype:
    """Returns numpy's dtype for a name in `DTYPE_NAMES`."""
    if name == "string":
        return np.dtype(object)
    if name == "bfloat16" or name.startswith("float8"):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


def read_signatures(path: str, tags: Sequence[str] = ("serve",)) -> dict[str, Signature]:
    """Returns the signatures of the SavedModel directory `path`, by name.

    Raises:
      UserError: no SavedModel there, an unreadable one, or none with these tags.
    """
    file = os.path.join(path, "saved_model.pb")
    try:
        with open(file, "rb") as stream:
            model = _messages()["SavedModel"].FromString(stream.read())
    except OSError as error:
        raise UserError(
            f"{path} is not a SavedModel directory: {file}: {error.strerror}"
        ) from error
    except message.DecodeError as error:
        raise UserError(f"{file} is damaged or no SavedModel: {error}") from error
    for meta_graph in model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return _signatures(meta_graph)
    found = " and ".join(",".join(g.meta_info_def.tags) for g in model.meta_graphs) or "none"
    raise UserError(f"{path} has no graph tagged {','.join(tags)}; its tags are: {found}")


def parse_meta_graph(serialized: bytes) -> dict[str, Signature]:
    """Returns the signatures of a serialized MetaGraphDef, by name."""
    return _signatures(_messages()["MetaGraph"].FromString(serialized))


def _signatures(meta_graph: Any) -> dict[str, Signature]:
    # __saved_model_init_op is how TF 2 stores its initialiser: nothing to call.
    return {
        entry.key: Signature(
            {pair.key: _tensor_spec(pair.value) for pair in entry.value.inputs},
            {pair.key: _tensor_spec(pair.value) for pair in entry.value.outputs},
            entry.value.method_name,
        )
        for entry in sorted(meta_graph.signature_def, key=lambda entry: entry.key)
        if entry.key != "__saved_model_init_op"
    }


def _tensor_spec(info: Any) -> TensorSpec:
    shape = None
    if info.HasField("tensor_shape") and not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(info.name, DTYPE_NAMES.get(info.dtype, "unknown"), shape)


# message -> field -> (number, type, repeated); a type is a scalar's or a message's name.
# A protobuf map is, on the wire, a repeated message of key and value.
_FIELDS = {
    "Dim": {"size": (1, "int64", False)},
    "Shape": {"dim": (2, "Dim", True), "unknown_rank": (3, "bool", False)},
    "TensorInfo": {
        "name": (1, "string", False),
        "dtype": (2, "int32", False),
        "tensor_shape": (3, "Shape", False),
    },
    "TensorEntry": {"key": (1, "string", False), "value": (2, "TensorInfo", False)},
    "SignatureDef": {
        "inputs": (1, "TensorEntry", True),
        "outputs": (2, "TensorEntry", True),
        "method_name": (3, "string", False),
    },
    "SignatureEntry": {"key": (1, "string", False), "value": (2, "SignatureDef", False)},
    "MetaInfo": {"tags": (4, "string", True)},
    "MetaGraph": {
        "meta_info_def": (1, "MetaInfo", False),
        "signature_def": (5, "SignatureEntry", True),
    },
    "SavedModel": {"meta_graphs": (2, "MetaGraph", True)},
}


@functools.cache
def _messages() -> dict[str, Any]:
    """Returns a protobuf class for each message in `_FIELDS`."""
    file = descriptor_pb2.FileDescriptorProto(name="signature.proto", syntax="proto3")
    file.package = "tfapprox"
    for message_name, fields in _FIELDS.items():
        declared = file.message_type.add(name=message_name)
        for name, (number, kind, repeated) in fields.items():
            field = declared.field.add(name=name, number=number, label=3 if repeated else 1)
            if kind in _FIELDS:
                field.type, field.type_name = field.TYPE_MESSAGE, f".tfapprox.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tfapprox.{name}"))
        for name in _FIELDS
    }


def default_signature(signatures: Mapping[str, Signature]) -> str:
    """Returns the name of the signature that counts when none is named.

    Raises:
      UserError: there is no signature at all.
    """
    if not signatures:
        raise UserError("the SavedModel has no signature to run; export it with one")
    return "serving_default" if "serving_default" in signatures else min(signatures)
