"""From a fitted vote to one ONNX graph: those of its members, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.bundles.converters import IR_VERSION, OPSETS
from emobench.bundles.export import converter_of, inputs, pipeline_graph, probabilities_of
from emobench.models.voting import list_members

if TYPE_CHECKING:
    from onnx import ModelProto


def from_vote(estimator: Any) -> ModelProto:
    """Convert a fitted `SoftVote`, each member by the converter of its own row."""
    members = zip(list_members(estimator.members), estimator.estimators_, strict=True)
    graphs = [
        pipeline_graph(pipeline, estimator.n_features_in_, converter_of(member.spec, member.params))
        for member, pipeline in members
    ]
    return mean_of(graphs, np.array(estimator.weights_) / sum(estimator.weights_))


def mean_of(models: Sequence[ModelProto], weights: Sequence[float]) -> ModelProto:
    """Return one graph of the weighted mean of the probabilities of models that take the same features.

    Raises
    ------
    ValueError
        If they ask for different versions of ONNX's operators.
    """
    from onnx import TensorProto, compose, helper, numpy_helper

    nodes, tensors, terms = [], [], []
    for number, (model, weight) in enumerate(zip(models, weights, strict=True)):
        graph = compose.add_prefix(model, f"{number}/").graph
        share, term = f"{number} weight", f"{number} weighted"
        tensors += [*graph.initializer, numpy_helper.from_array(np.array(weight, np.float32), share)]
        nodes += [helper.make_node("Identity", ["features"], [given.name]) for given in inputs(graph)]
        nodes += [*graph.node, helper.make_node("Mul", [probabilities_of(graph), share], [term])]
        terms.append(term)
    nodes.append(helper.make_node("Sum", terms, ["probabilities"]))
    features, probabilities = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in ("features", "probabilities")
    )
    graph = helper.make_graph(nodes, "vote", [features], [probabilities], tensors)
    opsets = [helper.make_opsetid(*opset) for opset in _opsets(models).items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _opsets(models: Sequence[ModelProto]) -> dict[str, int]:
    """Return the operator sets of a graph that holds those of several models."""
    found = {opset.domain: opset.version for model in models for opset in model.opset_import}
    others = {opset.version for model in models for opset in model.opset_import if opset.domain == ""} - {found[""]}
    if others:
        raise ValueError(f"its members ask for versions {sorted({*others, found['']})} of ONNX's operators")
    return {**found, "ai.onnx.ml": OPSETS["ai.onnx.ml"]}  # which still has what was in the earlier ones
