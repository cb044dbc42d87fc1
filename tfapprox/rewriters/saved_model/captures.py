"""What the object graph says a public function captures, held against the function itself."""

from tensorflow.core.protobuf.saved_object_graph_pb2 import SavedConcreteFunction
from tensorflow.core.protobuf.struct_pb2 import StructuredValue

from tfapprox.errors import UserError


def check_captures(name: str, saved: SavedConcreteFunction, inputs: int) -> None:
    """Checks that what callers pass and what is captured make up the function's inputs.

    The C++ loader doesn't read captures, TensorFlow in Python does, and so does whoever
    rewrites a function: a wrong list would go unnoticed until the rewritten model is loaded.

    Args:
      inputs: of the function in the graph's library.

    Raises:
      UserError: they don't.
    """
    captured = len(saved.bound_inputs)
    if captured > inputs:
        raise UserError(f"saved_model.pb is damaged: {name} has more captures than inputs")
    if not saved.HasField("canonicalized_input_signature"):
        return
    passed = _tensors(saved.canonicalized_input_signature)
    if passed is not None and passed + captured != inputs:
        raise UserError(
            f"saved_model.pb is damaged: {name} has {inputs} inputs, but {passed} arguments and "
            f"{captured} captures"
        )


def _tensors(value: StructuredValue) -> int | None:
    """Returns how many tensors a structure of arguments is passed as; None: can't tell."""
    kind = value.WhichOneof("kind")
    if kind == "type_spec_value":  # a ragged or sparse tensor, a data set, ...: several tensors
        return None
    if kind in ("tensor_spec_value", "bounded_tensor_spec_value"):
        return 1
    if kind in ("list_value", "tuple_value"):
        parts = list(getattr(value, kind).values)
    elif kind == "dict_value":
        parts = list(value.dict_value.fields.values())
    elif kind == "named_tuple_value":
        parts = [pair.value for pair in value.named_tuple_value.values]
    else:
        return 0
    counts = [_tensors(part) for part in parts]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
