"""Which operations of a graph reach beyond their inputs when it is run: files, network, Python.

A TensorFlow graph is a program. Reading and rewriting it runs nothing; verifying and
measuring does, and then a graph can do whatever its operations can.
"""

from collections.abc import Iterable

from tensorflow.core.protobuf import meta_graph_pb2

_PYTHON = ("PyFunc", "EagerPyFunc", "PyFuncStateless")
_FILES = (
    *("ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2"),
    *("TextLineReader", "TextLineReaderV2", "TFRecordReader", "TFRecordReaderV2"),
    *("FixedLengthRecordReader", "FixedLengthRecordReaderV2", "LMDBReader"),
    *("TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDataset"),
    *("FixedLengthRecordDatasetV2", "SaveDataset", "SaveDatasetV2", "LoadDataset"),
    *("CreateSummaryFileWriter", "CreateSummaryDbWriter", "LoadAndRemapMatrix", "PrintV2"),
    *("Save", "SaveSlices", "Restore", "RestoreSlice", "DebugIdentityV2"),
    *("CacheDataset", "CacheDatasetV2", "SnapshotDataset", "SnapshotDatasetV2"),
)
_NETWORK = ("RpcCall", "RpcClient", "DataServiceDataset", "DataServiceDatasetV4", "DebugIdentity")
_SAVER = ("SaveV2", "RestoreV2", "MergeV2Checkpoints")
REACHING = frozenset((*_PYTHON, *_FILES, *_NETWORK))


def reaching_operations(
    meta: meta_graph_pb2.MetaGraphDef, saver_nodes: Iterable[str] = ()
) -> list[str]:
    """Returns the types, sorted, of operations that touch files, network or Python.

    Args:
      meta: the graph and its function library.
      saver_nodes: nodes of the main graph, and names of functions, that save and restore
        the variables: these touch the model's own files and are left out.
    """
    own = set(saver_nodes)
    found = {n.op for n in meta.graph_def.node if _reaches(n.op, n.name in own)}
    for function in meta.graph_def.library.function:
        inside = function.signature.name in own
        found |= {n.op for n in function.node_def if _reaches(n.op, inside)}
    return sorted(found)


def _reaches(op: str, saves: bool) -> bool:
    return op in REACHING or (op in _SAVER and not saves)
