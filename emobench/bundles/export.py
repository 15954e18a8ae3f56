"""A fitted model as ONNX, scaling included, with the same input and outputs whatever it was.

Input `features`, float32 of shape (n, n_features); frames over time are flattened, one frame after the other. Outputs
`label`, int64 codes of shape (n,), and, where the model has them, `probabilities`, float32 of shape (n, n_classes).
Both count over all declared classes, also where the training part lacked some.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.bundles.converters import OPSETS, Converter, from_calibrated, from_sklearn, skl2onnx_graph, stand_ins
from emobench.bundles.gate import DISTRUST
from emobench.bundles.parity import ADVICE, Parity, check_parity
from emobench.bundles.session import INPUT, LABEL, PROBABILITIES, Session
from emobench.errors import BundleError, NoBundleError
from emobench.models import ModelSpec, calibration_method
from emobench.registry import resolve

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def export(model: Any, X: np.ndarray, *, n_classes: int, converter: Converter = from_sklearn) -> tuple[bytes, Parity]:
    """Export a fitted model, and prove on its training rows that ONNX Runtime answers as it does.

    Parameters
    ----------
    model : classifier or Pipeline
        Fitted on float32 rows and codes 0 to n_classes - 1, of which some may be missing. All but the last step of a
        pipeline are exported by skl2onnx.
    X : float32 array of shape (n, n_features)
        Rows it was trained on.
    converter : function
        Of the classifier; see `emobench.bundles.converters`.

    Returns
    -------
    data : bytes
        The same for the same model.
    parity : Parity

    Raises
    ------
    NoBundleError
        If the model has no converter, or the exported one answers otherwise.
    """
    X = np.ascontiguousarray(X, dtype=np.float32)
    data = to_onnx(model, X.shape[1], n_classes, converter)
    try:
        session = Session(data, n_classes)
        return data, check_parity(model, session, X)
    except NoBundleError:
        raise
    except BundleError as error:
        reason = str(error).removesuffix(DISTRUST)
        raise NoBundleError(f"no bundle: {_name(model)} was exported, but {reason}{ADVICE}") from error


def to_onnx(model: Any, n_features: int, n_classes: int, converter: Converter = from_sklearn) -> bytes:
    """Export a fitted model without comparing its answers; see `export`."""
    classifier = _steps(model)[-1][1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = pipeline_graph(model, n_features, converter)
            return _finished(graph, n_features, np.asarray(classifier.classes_), n_classes).SerializeToString()
    except Exception as error:  # converters of other projects, and of plug-ins, raise what they like
        reason = (str(error).strip().splitlines() or [""])[0]
        raise NoBundleError(
            f"no bundle: {_name(model)} cannot be exported to ONNX ({type(error).__name__}: {reason[:200]}). "
            "Name a converter in its row of MODELS, or use a model that skl2onnx converts."
        ) from error


def pipeline_graph(model: Any, n_features: int, converter: Converter) -> ModelProto:
    """Return the graph of a fitted classifier or Pipeline: rows of features in, what its converter gives out."""
    from sklearn.pipeline import Pipeline

    steps = _steps(model)
    graph = _shaped(converter(steps[-1][1]))
    if not any(opset.domain == "" for opset in graph.opset_import):
        graph.opset_import.add(domain="", version=OPSETS[""])  # for nodes that are added to it
    if len(steps) > 1:
        graph = _behind(Pipeline(stand_ins(steps[:-1], n_features)), n_features, graph)
    return graph


def converter_of(spec: ModelSpec, params: Mapping[str, Any]) -> Converter:
    """Return the converter of what `emobench.models.build` makes of a row and parameters."""
    converter = resolve(spec.converter)
    if not calibration_method(spec, params):
        return converter
    return lambda estimator: from_calibrated(estimator.calibrated_, converter)


def _steps(model: Any) -> list[tuple[str, Any]]:
    return model.steps if hasattr(model, "steps") else [("model", model)]


def _name(model: Any) -> str:
    return type(_steps(model)[-1][1]).__name__


def _shaped(model: ModelProto) -> ModelProto:
    """Return a model that takes rows of features, where a network takes steps by channels."""
    from onnx import TensorProto, helper, numpy_helper

    (given,) = inputs(model.graph)
    sizes = [size.dim_value or -1 for size in given.type.tensor_type.shape.dim[1:]]
    if len(sizes) > 1:
        row_shape = np.array([0, *sizes])  # 0: as many rows as there were
        model.graph.initializer.append(numpy_helper.from_array(row_shape, "emobench/row_shape"))
        model.graph.node.insert(0, helper.make_node("Reshape", ["emobench/rows", "emobench/row_shape"], [given.name]))
        given.CopyFrom(helper.make_tensor_value_info("emobench/rows", TensorProto.FLOAT, ["n", None]))
    return model


def inputs(graph: GraphProto) -> list[Any]:
    """Return what a graph is given, without its constants."""
    constants = {tensor.name for tensor in graph.initializer}
    return [given for given in graph.input if given.name not in constants]


def probabilities_of(graph: GraphProto) -> str:
    """Return the name of the probabilities among a graph's outputs, which are told apart by their type."""
    from onnx import TensorProto

    return next(output.name for output in graph.output if output.type.tensor_type.elem_type == TensorProto.FLOAT)


def _behind(transformers: Any, n_features: int, model: ModelProto) -> ModelProto:
    """Return one graph of transformers, scaling above all, and the model behind them."""
    from onnx import compose

    opsets = {opset.domain: opset.version for opset in model.opset_import}
    first = skl2onnx_graph(transformers, n_features, opset=opsets[""])
    first.ir_version = model.ir_version
    model.opset_import.extend(opset for opset in first.opset_import if opset.domain not in opsets)
    del first.opset_import[:]
    first.opset_import.extend(model.opset_import)
    first, model = compose.add_prefix(first, "first/"), compose.add_prefix(model, "then/")
    return compose.merge_models(first, model, io_map=[(first.graph.output[0].name, inputs(model.graph)[0].name)])


def _finished(model: ModelProto, n_features: int, classes: np.ndarray, n_classes: int) -> ModelProto:
    """Return the model with our names, and answers over all declared classes."""
    from onnx import TensorProto, checker, helper, numpy_helper

    from emobench.bundles.canonical import canonical

    graph = model.graph
    (given,) = inputs(graph)
    kinds = {output.type.tensor_type.elem_type: output.name for output in graph.output}
    label, probabilities = kinds.get(TensorProto.INT64), kinds.get(TensorProto.FLOAT)
    if probabilities is not None and classes.tolist() != list(range(n_classes)):
        places = np.eye(n_classes, dtype=np.float32)[classes]  # a class that was not trained has probability 0
        graph.initializer.append(numpy_helper.from_array(places, "emobench/places"))
        graph.node.append(helper.make_node("MatMul", [probabilities, "emobench/places"], ["emobench/placed"]))
        probabilities = "emobench/placed"
    if label is None:
        if probabilities is None:
            raise ValueError("its converter returns neither labels nor probabilities")
        graph.node.append(helper.make_node("ArgMax", [probabilities], ["emobench/best"], axis=1, keepdims=0))
        label = "emobench/best"
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(given.name, TensorProto.FLOAT, ["n", n_features]))
    graph.output.append(helper.make_tensor_value_info(label, TensorProto.INT64, ["n"]))
    names = {given.name: INPUT, label: LABEL}
    if probabilities is not None:
        graph.output.append(helper.make_tensor_value_info(probabilities, TensorProto.FLOAT, ["n", n_classes]))
        names[probabilities] = PROBABILITIES
    result = canonical(model, names)
    checker.check_model(result)
    return result
