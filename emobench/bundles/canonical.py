"""One form for graphs that compute the same: exporters name values after layers, counters and random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto


def canonical(model: ModelProto, names: Mapping[str, str]) -> ModelProto:
    """Return a model whose bytes depend on nothing but what it computes.

    Nodes stand in the order in which the outputs need them, and those that no output needs are left out; values are
    numbered in that order. Remarks, names of nodes and shapes of inner values are dropped.

    Parameters
    ----------
    names : mapping of str to str
        Names of the graph's inputs and outputs → what they are called in the result.
    """
    result = ModelProto()
    result.ir_version = model.ir_version
    result.producer_name = "emobench"
    for opset in sorted(model.opset_import, key=lambda opset: opset.domain):
        result.opset_import.add(domain=opset.domain, version=opset.version)
    result.graph.CopyFrom(_rewritten(model.graph, dict(names)))
    result.graph.name = "model"
    return result


def _rewritten(graph: GraphProto, names: dict[str, str]) -> GraphProto:
    """Return a graph in canonical order under new names; `names` gets those of its values."""
    nodes = _needed(graph)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    result = GraphProto()

    def renamed(value: str) -> str:
        return names.setdefault(value, f"v{len(names)}") if value else ""

    for kind in ("input", "output"):
        for info in getattr(graph, kind):
            if kind == "output" or info.name not in tensors:
                getattr(result, kind).add().CopyFrom(info)
                getattr(result, kind)[-1].name = renamed(info.name)
    values = [value for node in nodes for value in (*_consumed(node), *node.output)]
    for value in dict.fromkeys([*values, *(info.name for info in graph.output)]):
        new = renamed(value)
        if value in tensors:
            result.initializer.add().CopyFrom(tensors[value])
            result.initializer[-1].name = new
            result.initializer[-1].ClearField("doc_string")
    for node in nodes:
        copied = result.node.add(op_type=node.op_type, domain=node.domain)
        copied.input.extend(map(renamed, node.input))
        copied.output.extend(map(renamed, node.output))
        for attribute in sorted(node.attribute, key=lambda attribute: attribute.name):
            copied.attribute.add().CopyFrom(attribute)
            if attribute.type == AttributeProto.GRAPH:
                # A loop's body sees the values around it, and nobody sees those in it.
                copied.attribute[-1].g.CopyFrom(_rewritten(attribute.g, dict(names)))
                copied.attribute[-1].g.name = "body"
    return result


def _defined(graph: GraphProto) -> Iterator[str]:
    yield from (info.name for info in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from node.output


def _consumed(node: NodeProto) -> list[str]:
    """Return what a node takes: its inputs, and what its bodies take from around them."""
    values = [value for value in node.input if value]
    for body in (attribute.g for attribute in node.attribute if attribute.type == AttributeProto.GRAPH):
        own = set(_defined(body))
        taken = [value for inner in body.node for value in _consumed(inner)] + [info.name for info in body.output]
        values += [value for value in taken if value not in own]
    return list(dict.fromkeys(values))


def _needed(graph: GraphProto) -> list[NodeProto]:
    """Return the nodes that the outputs need, each behind those it needs, whatever their order was."""
    producers = {value: index for index, node in enumerate(graph.node) for value in node.output if value}
    ordered: dict[int, None] = {}
    stack = [(producers[info.name], False) for info in reversed(graph.output) if info.name in producers]
    while stack:
        index, is_ready = stack.pop()
        if is_ready:
            ordered[index] = None
        elif index not in ordered:
            inputs = [producers[value] for value in _consumed(graph.node[index]) if value in producers]
            stack += [(index, True), *((needed, False) for needed in reversed(inputs))]
    return [graph.node[index] for index in ordered]
