"""What an ONNX file from outside may hold: operators of the standard, and the numbers it brings along itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emobench.errors import BundleError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MAX_BYTES = 2**29
DISTRUST = "Do not trust this file; if it is your own, export the model again."


def check_onnx(data: bytes) -> ModelProto:
    """Parse a model, and refuse what could reach beyond it or asks for more than it is.

    That is: operators of any domain but ONNX's own two, functions, training, sparse tensors, data in other files, and
    tensors that claim more numbers than the file has room for, in bodies of loops and branches too. What a graph
    computes, and for how long, no look can tell; see `emobench.bundles.inspection`.

    Raises
    ------
    BundleError
    """
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    if len(data) > MAX_BYTES:
        raise BundleError(f"model.onnx has {len(data):,} bytes; at most {MAX_BYTES:,} are read. {DISTRUST}")
    try:
        model = ModelProto.FromString(data)
    except DecodeError as error:
        raise BundleError(f"model.onnx is not an ONNX file, or is damaged ({error}). {DISTRUST}") from error
    problem = next(_problems(model, len(data)), None)
    if problem:
        raise BundleError(f"model.onnx {problem}. {DISTRUST}")
    return model


def _problems(model: ModelProto, n_bytes: int) -> Iterator[str]:
    if not model.graph.node:
        yield "holds no graph"
    for opset in model.opset_import:
        if opset.domain not in DOMAINS:
            yield f"asks for operators of {opset.domain!r}; only those of ONNX are run"
    if model.functions:
        yield "defines functions of its own"
    if model.training_info:
        yield "holds training information"
    for part in _parts(model.graph):
        yield from _node_problems(part) if hasattr(part, "op_type") else _tensor_problems(part, n_bytes)


def _parts(graph: GraphProto) -> Iterator[Any]:
    """Yield every node and tensor, those in bodies of loops and branches too."""
    pending = [graph]
    while pending:
        graph = pending.pop()
        yield from graph.initializer
        yield from graph.sparse_initializer
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs
                yield from [attribute.t] if attribute.HasField("t") else []
                yield from attribute.tensors
                yield from [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
                yield from attribute.sparse_tensors


def _node_problems(node: NodeProto) -> Iterator[str]:
    if node.domain not in DOMAINS:
        yield f"uses the operator {node.op_type!r} of {node.domain!r}; only those of ONNX are run"


def _tensor_problems(tensor: TensorProto, n_bytes: int) -> Iterator[str]:
    if not hasattr(tensor, "data_location"):
        yield "holds a sparse tensor"
    elif tensor.data_location or tensor.external_data:
        yield f"keeps the tensor {tensor.name!r} in another file"
    elif min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > 2 * n_bytes:  # two 4-bit numbers a byte
        yield f"claims that the tensor {tensor.name!r} has shape {list(tensor.dims)[:8]}, more than the file holds"
