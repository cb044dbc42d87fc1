"""Throughput and latency of an original and a compressed SavedModel under gRPC load.

Each model is served by a process of its own on localhost: TF Serving's PredictionService
over the C++ loader that TF Serving uses, without its batching. Clients in this process,
1 to 32 of them at once, send the same request as fast as they get answers, to one model
and then to the other, in rounds of alternating order, so that whatever else the machine
does meets both alike. Requests and seconds are bounded.

  python -m benchmarks.serving_load --original model --compressed small
"""

import argparse
import contextlib
import dataclasses
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from benchmarks.command import make_parser, run, say
from benchmarks.record import Row, Spread, Value
from tfapprox.serving.cc_loader import CcSession
from tfapprox.serving.inputs import generate_inputs, read_inputs, take_batch
from tfapprox.serving.signature import default_signature, read_signatures

_UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_WARM_UP_REQUESTS = 5
_MODELS = ("original", "compressed")


@dataclasses.dataclass(frozen=True)
class Load:
    """How much is asked.

    Attributes:
      clients: numbers of concurrent clients, each measured.
      rounds: how often each model is measured at each number.
      requests: in a round, shared among the clients.
      seconds: of a round, whatever the requests.
    """

    clients: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    rounds: int = 3
    requests: int = 200
    seconds: float = 5.0

    def __post_init__(self):
        if not self.clients or not all(1 <= n <= 32 for n in self.clients):
            raise ValueError(f"clients must be 1 to 32, got {self.clients}")
        if not (1 <= self.rounds <= 20 and 1 <= self.requests <= 100_000):
            raise ValueError(f"rounds must be 1 to 20, requests 1 to 100000, got {self}")
        if not 0 < self.seconds <= 60:
            raise ValueError(f"seconds of a round must be at most 60, got {self.seconds}")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers Predict as TF Serving does, one session run a request."""

    def __init__(self, session: CcSession):
        self._session = session

    def Predict(self, request, context):  # noqa: N802 (TF Serving's name)
        inputs = {key: tf.make_ndarray(proto) for key, proto in request.inputs.items()}
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        try:
            outputs = self._session.run(inputs, request.model_spec.signature_name)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        for key, array in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(array))
        return response


@contextlib.contextmanager
def served(path: str, threads: int | None = None) -> Iterator[str]:
    """Serves a SavedModel from this process; yields its address on localhost."""
    with CcSession(path, threads=threads) as session:
        server = grpc.server(futures.ThreadPoolExecutor(32), options=_UNLIMITED)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(session), server
        )
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield address
        finally:
            server.stop(grace=5).wait()


@contextlib.contextmanager
def served_apart(path: str, threads: int | None) -> Iterator[str]:
    """Serves a SavedModel from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving_load", "--serve", path]
    command += [] if threads is None else ["--threads", str(threads)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        address = child.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the server of {path} did not start: exit {child.wait()}")
        yield address
    finally:
        child.stdin.close()  # it serves until its input ends
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()


def drive(address: str, request: bytes, clients: int, load: Load) -> tuple[np.ndarray, float]:
    """Returns the seconds of each request, and of the whole round."""
    request = predict_pb2.PredictRequest.FromString(request)
    left = threading.Semaphore(load.requests)
    seconds: list[float] = []
    with grpc.insecure_channel(address, options=_UNLIMITED) as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        for _ in range(_WARM_UP_REQUESTS):
            predict(request, timeout=60)
        end = time.perf_counter() + load.seconds

        def client() -> None:
            while time.perf_counter() < end and left.acquire(blocking=False):
                start = time.perf_counter()
                predict(request, timeout=60)
                seconds.append(time.perf_counter() - start)

        start = time.perf_counter()
        with futures.ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(client) for _ in range(clients)]:
                done.result()
        return np.array(seconds), time.perf_counter() - start


def measure(addresses: Sequence[str], request: bytes, load: Load) -> list[Row]:
    """Returns a row for each number of clients; the original's address comes first."""
    rows = []
    for clients in load.clients:
        say(f"serving_load: {clients} clients")
        times: list[list[np.ndarray]] = [[], []]
        throughput = np.zeros((load.rounds, 2))
        for number in range(load.rounds):
            for model in (0, 1) if number % 2 == 0 else (1, 0):
                seconds, whole = drive(addresses[model], request, clients, load)
                times[model].append(seconds)
                throughput[number, model] = len(seconds) / whole
        values: dict[str, Value] = {}
        for model, name in enumerate(_MODELS):
            values[f"{name}, requests/s"] = float(np.median(throughput[:, model]))
            for percent in (50, 95, 99):
                milliseconds = 1e3 * np.percentile(np.concatenate(times[model]), percent)
                values[f"{name}, p{percent} ms"] = float(milliseconds)
        ratio = Spread.of(throughput[:, 1] / throughput[:, 0])
        rows.append(Row({"clients": clients}, {"throughput over the original's": ratio}, values))
    return rows


def make_request(path: str, inputs: str | None, batch_size: int) -> bytes:
    """Returns a PredictRequest for a model's default signature."""
    signatures = read_signatures(path)
    name = default_signature(signatures)
    signature = signatures[name]
    arrays = (
        generate_inputs(signature, batch_size) if inputs is None else read_inputs(inputs, signature)
    )
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = name
    for key, array in take_batch(arrays, signature, batch_size).items():
        encoded = np.char.encode(array) if array.dtype.kind == "U" else array
        request.inputs[key].CopyFrom(tf.make_tensor_proto(encoded))
    return request.SerializeToString()


def main() -> int:
    """Measures the models that the flags name, or serves one until standard input ends."""
    parser = make_parser(__doc__)
    parser.add_argument("--original", help="SavedModel directory (default: a demo is trained)")
    parser.add_argument("--compressed", help="SavedModel directory")
    parser.add_argument("--inputs", help=".npz of the default signature (default: made up)")
    parser.add_argument("--batch_size", type=int, default=1, help="examples in a request")
    parser.add_argument("--clients", default="1,2,4,8,16,32", help="numbers of clients, to 32")
    parser.add_argument("--rounds", type=int, default=Load.rounds)
    parser.add_argument("--requests", type=int, default=Load.requests, help="in a round")
    parser.add_argument("--seconds", type=float, default=Load.seconds, help="of a round, at most")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        with served(args.serve, args.threads) as address:
            print(address, flush=True)
            sys.stdin.read()
        return 0
    if bool(args.original) != bool(args.compressed):
        parser.error("give both --original and --compressed, or neither")
    return run(parser, "serving_load", measure_load)


def measure_load(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Returns a row for each number of clients."""
    clients = (1, 4) if args.quick else tuple(int(n) for n in args.clients.split(","))
    rounds, requests = (2, 50) if args.quick else (args.rounds, args.requests)
    load = Load(clients, rounds, requests, args.seconds)
    with contextlib.ExitStack() as stack:
        models = (args.original, args.compressed)
        if not args.original:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            models = _make_models(folder, args.quick)
        request = make_request(models[0], args.inputs, args.batch_size)
        addresses = [stack.enter_context(served_apart(model, args.threads)) for model in models]
        return measure(addresses, request, load), []


def _make_models(folder: Path, quick: bool) -> tuple[str, str]:
    """Returns a VGG-like network and what is left of it at half of its MACs."""
    from benchmarks.networks import QUICK, Sizes, export_network
    from tfapprox.compression import compress_saved_model
    from tfapprox.config import CompressionConfig
    from tfapprox.selection.problem import Budget

    sizes = QUICK if quick else Sizes(image=96)
    original, compressed = folder / "original", folder / "compressed"
    export_network("VGG16", sizes, original)
    compress_saved_model(
        original, compressed, CompressionConfig(Budget("macs", keep=0.5)), batch_sizes=()
    )
    return str(original), str(compressed)


if __name__ == "__main__":
    sys.exit(main())
