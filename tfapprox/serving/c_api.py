"""TensorFlow's C API through ctypes: its functions, status and tensors.

The functions come from the shared libraries of the installed TensorFlow wheel,
which works whether or not the Python package has been imported.
"""

import ctypes
import functools
import glob
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfapprox.errors import UserError
from tfapprox.serving.signature import DTYPE_NAMES, numpy_dtype

_POINTER = ctypes.c_void_p
_STRING = ctypes.c_char_p
_TEXT_BYTES = 24  # sizeof(TF_TString)
_DTYPE_NUMBERS = {name: number for number, name in DTYPE_NAMES.items()}
_MAX_MESSAGE = 300


class LoadError(UserError):
    """TensorFlow's C++ runtime refuses to load or to run a SavedModel."""


class Output(ctypes.Structure):
    """TF_Output: one output of an operation in a graph."""

    _fields_ = (("operation", _POINTER), ("index", ctypes.c_int))


class Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", _POINTER), ("length", ctypes.c_size_t), ("deallocator", _POINTER))


_PROTOTYPES: dict[str, tuple[Any, Sequence[Any]]] = {
    "TF_Version": (_STRING, ()),
    "TF_NewStatus": (_POINTER, ()),
    "TF_DeleteStatus": (None, (_POINTER,)),
    "TF_GetCode": (ctypes.c_int, (_POINTER,)),
    "TF_Message": (_STRING, (_POINTER,)),
    "TF_NewGraph": (_POINTER, ()),
    "TF_DeleteGraph": (None, (_POINTER,)),
    "TF_NewBuffer": (ctypes.POINTER(Buffer), ()),
    "TF_DeleteBuffer": (None, (ctypes.POINTER(Buffer),)),
    "TF_NewSessionOptions": (_POINTER, ()),
    "TF_DeleteSessionOptions": (None, (_POINTER,)),
    "TF_SetConfig": (None, (_POINTER, _STRING, ctypes.c_size_t, _POINTER)),
    "TF_LoadSessionFromSavedModel": (
        _POINTER,
        (
            *(_POINTER, _POINTER, _STRING, ctypes.POINTER(_STRING), ctypes.c_int),
            *(_POINTER, ctypes.POINTER(Buffer), _POINTER),
        ),
    ),
    "TF_CloseSession": (None, (_POINTER, _POINTER)),
    "TF_DeleteSession": (None, (_POINTER, _POINTER)),
    "TF_GraphOperationByName": (_POINTER, (_POINTER, _STRING)),
    "TF_SessionRun": (
        None,
        (
            *(_POINTER, _POINTER),
            *(ctypes.POINTER(Output), ctypes.POINTER(_POINTER), ctypes.c_int) * 2,
            *(_POINTER, ctypes.c_int, _POINTER, _POINTER),
        ),
    ),
    "TF_AllocateTensor": (
        _POINTER,
        (ctypes.c_int, ctypes.POINTER(ctypes.c_int64), ctypes.c_int, ctypes.c_size_t),
    ),
    "TF_DeleteTensor": (None, (_POINTER,)),
    "TF_TensorData": (_POINTER, (_POINTER,)),
    "TF_TensorByteSize": (ctypes.c_size_t, (_POINTER,)),
    "TF_TensorType": (ctypes.c_int, (_POINTER,)),
    "TF_NumDims": (ctypes.c_int, (_POINTER,)),
    "TF_Dim": (ctypes.c_int64, (_POINTER, ctypes.c_int)),
    "TF_StringInit": (None, (_POINTER,)),
    "TF_StringCopy": (None, (_POINTER, _STRING, ctypes.c_size_t)),
    "TF_StringDealloc": (None, (_POINTER,)),
    "TF_StringGetDataPointer": (_POINTER, (_POINTER,)),
    "TF_StringGetSize": (ctypes.c_size_t, (_POINTER,)),
}


@functools.cache
def library() -> Any:
    """Returns an object with the functions of `_PROTOTYPES` as attributes.

    Raises:
      LoadError: no TensorFlow is installed, or its libraries lack a function.
    """
    spec = importlib.util.find_spec("tensorflow")  # finds without importing
    if spec is None or not spec.submodule_search_locations:
        raise LoadError("TensorFlow is not installed; pip install tensorflow")
    root = next(iter(spec.submodule_search_locations))
    libraries = [ctypes.CDLL(path) for path in _library_files(root)]
    functions = type("CApi", (), {})()
    for name, (result, arguments) in _PROTOTYPES.items():
        holder = next((lib for lib in libraries if hasattr(lib, name)), None)
        if holder is None:
            raise LoadError(f"the TensorFlow libraries in {root} have no function {name}")
        function = getattr(holder, name)
        function.restype, function.argtypes = result, arguments
        setattr(functions, name, function)
    return functions


def _library_files(root: str) -> list[str]:
    """Returns the C API's libraries under TensorFlow's package directory `root`."""
    names = ("libtensorflow_framework*", "libtensorflow_cc*", "python/_pywrap_tensorflow_internal*")
    files = [sorted(glob.glob(os.path.join(root, name)))[:1] for name in names]
    return [found[0] for found in files if found]


def tensorflow_version() -> str:
    """Returns the version of the TensorFlow libraries, without importing the package."""
    return library().TF_Version().decode()


class Status:
    """TF_Status, as a context: `with Status("loading X") as status: call(..., status)`.

    Raises LoadError, with what was being done and TensorFlow's message, on leaving.
    """

    def __init__(self, doing: str):
        self._doing = doing

    def __enter__(self) -> int:
        self._pointer = library().TF_NewStatus()
        return self._pointer

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        api = library()
        code = api.TF_GetCode(self._pointer)
        text = api.TF_Message(self._pointer).decode(errors="replace")
        api.TF_DeleteStatus(self._pointer)
        if code and kind is None:
            raise LoadError(f"{self._doing}: {shorten(text)}")


def shorten(text: str) -> str:
    """Returns TensorFlow's message in one line: without node definitions and stack traces."""
    for marker in ("\n\t [[", "\n\nOriginal stack trace", "\n\nErrors may have originated"):
        text = text.split(marker)[0]
    line = " ".join(text.split())
    return line if len(line) <= _MAX_MESSAGE else line[: _MAX_MESSAGE - 1] + "…"


def to_tensor(array: np.ndarray, dtype: str) -> int:
    """Returns a new TF_Tensor with a copy of `array`, to be freed with `free_tensor`.

    Args:
      array: of exactly the dtype named, or of bytes or str for "string".
      dtype: a name in `DTYPE_NAMES`.
    """
    api = library()
    dims = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
    number = _DTYPE_NUMBERS[dtype]
    if dtype == "string":
        tensor = api.TF_AllocateTensor(number, dims, array.ndim, _TEXT_BYTES * array.size)
        base = api.TF_TensorData(tensor)
        for i, item in enumerate(array.ravel().tolist()):
            text = item.encode() if isinstance(item, str) else bytes(item)
            api.TF_StringInit(base + _TEXT_BYTES * i)
            api.TF_StringCopy(base + _TEXT_BYTES * i, text, len(text))
        return tensor
    array = np.ascontiguousarray(array)
    tensor = api.TF_AllocateTensor(number, dims, array.ndim, array.nbytes)
    if array.nbytes:
        ctypes.memmove(api.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
    return tensor


def free_tensor(tensor: int, dtype: str = "") -> None:
    """Frees a TF_Tensor; `dtype` "string" frees the texts that `to_tensor` copied, too."""
    api = library()
    if dtype == "string":
        base, size = api.TF_TensorData(tensor), api.TF_TensorByteSize(tensor)
        for offset in range(0, size, _TEXT_BYTES):
            api.TF_StringDealloc(base + offset)
    api.TF_DeleteTensor(tensor)


def from_tensor(tensor: int) -> np.ndarray:
    """Returns a copy of a TF_Tensor; strings come as an object array of bytes.

    Raises:
      LoadError: the dtype has no numpy equivalent (resource, variant, quantized).
    """
    api = library()
    shape = tuple(api.TF_Dim(tensor, i) for i in range(api.TF_NumDims(tensor)))
    number, count = api.TF_TensorType(tensor), int(np.prod(shape, dtype=np.int64))
    if number not in DTYPE_NAMES:
        raise LoadError(f"an output has TensorFlow data type {number}, which numpy lacks")
    base = api.TF_TensorData(tensor)
    if DTYPE_NAMES[number] == "string":
        texts = np.empty(count, dtype=object)
        for i in range(count):
            text = base + _TEXT_BYTES * i
            texts[i] = ctypes.string_at(
                api.TF_StringGetDataPointer(text), api.TF_StringGetSize(text)
            )
        return texts.reshape(shape)
    array = np.empty(shape, numpy_dtype(DTYPE_NAMES[number]))
    if count:
        ctypes.memmove(array.ctypes.data, base, api.TF_TensorByteSize(tensor))
    return array
