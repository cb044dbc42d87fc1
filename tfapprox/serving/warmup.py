"""The requests that TF Serving replays before a version takes traffic.

They lie in assets.extra/tf_serving_warmup_requests: a TFRecord file of PredictionLog
messages. Without them the first requests pay for what TensorFlow does lazily; with one
that fails, TF Serving refuses the version. So what is written here is replayed here.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfapprox.errors import UserError
from tfapprox.serving.cc_loader import CcSession, check_inputs, find_signature
from tfapprox.serving.inputs import Inputs, take_batch
from tfapprox.serving.signature import default_signature, read_signatures

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")


def check_warmup_support() -> None:
    """Refuses to go on where the messages of TF Serving's API are not installed.

    Raises:
      UserError: with what to install.
    """
    if importlib.util.find_spec("tensorflow_serving") is None:
        raise UserError("--warmup needs tensorflow-serving-api: pip install 'tfapprox[serving]'")


def write_warmup(
    model: str | Path,
    inputs: Inputs,
    signature: str | None = None,
    tags: Sequence[str] = ("serve",),
) -> None:
    """Writes the warmup record of a SavedModel, in the place of one that may be there.

    It asks for the first example alone and for all examples at once. TF Serving with
    batching pads to its allowed batch sizes, so give as many examples as the largest.

    Args:
      model: SavedModel directory.
      inputs: one array for each input key of the signature.
      signature: serving_default, or else the first, when None.
      tags: of the graph.

    Raises:
      UserError: tensorflow-serving-api is missing, or the model can't run the inputs.
    """
    check_warmup_support()
    signatures = read_signatures(str(model), tags)
    name = signature or default_signature(signatures)
    chosen = find_signature(signatures, name, str(model))
    check_inputs(inputs, chosen, name)
    first = take_batch(inputs, chosen, 1)
    smaller = any(first[key].shape != inputs[key].shape for key in inputs)
    batches = [first, inputs] if smaller else [inputs]
    with CcSession(str(model), tags) as session:
        for batch in batches:
            session.run(batch, name)
    _write(Path(model, WARMUP_FILE), [_request(batch, name) for batch in batches])


def read_warmup(model: str | Path) -> Iterator[tuple[str, Inputs]]:
    """Yields (signature, inputs) of each Predict request in a model's warmup record.

    Raises:
      UserError: tensorflow-serving-api is missing, there is no record, or it is damaged.
    """
    check_warmup_support()
    import tensorflow as tf
    from google.protobuf import message
    from tensorflow_serving.apis import prediction_log_pb2  # type: ignore[import-untyped]

    path = Path(model, WARMUP_FILE)
    if not path.is_file():
        raise UserError(f"{model} has no warmup record: {path} is missing")
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            arrays = {key: tf.make_ndarray(proto) for key, proto in request.inputs.items()}
            yield request.model_spec.signature_name, arrays
    except (tf.errors.DataLossError, message.DecodeError) as error:
        raise UserError(f"{path} is no record of PredictionLogs: {error}") from error


def _request(inputs: Inputs, signature: str) -> bytes:
    """Returns a serialized PredictionLog; the model's name is the server's business."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    for key, array in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(_encoded(array)))
    return log.SerializeToString(deterministic=True)


def _encoded(array: np.ndarray) -> np.ndarray:
    """Returns an array of text as one of bytes, others as they are."""
    if array.dtype.kind != "U":
        return array
    texts = [text.encode() for text in array.ravel().tolist()]
    return np.array(texts, dtype=object).reshape(array.shape)


def _write(path: Path, records: Sequence[bytes]) -> None:
    import tensorflow as tf

    path.parent.mkdir(exist_ok=True)
    complete = path.with_name(f".{path.name}.new")
    with tf.io.TFRecordWriter(str(complete)) as writer:
        for record in records:
            writer.write(record)
    complete.replace(path)
