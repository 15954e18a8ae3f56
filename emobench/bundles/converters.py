"""From a fitted classifier to ONNX, with the converters of skl2onnx, onnxmltools and Keras.

A converter is a function `(estimator) -> onnx.ModelProto`. The graph takes rows of features, float32 of shape (n, d),
or of any shape that d numbers fill. It returns the probabilities of `classes_`, float32 of shape (n, len(classes_)), or
the label, int64 of shape (n,), or both; outputs are told apart by their type. `emobench.bundles.export` does the rest,
and keeps no graph that does not answer as the estimator does.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto
    from sklearn.linear_model import LogisticRegression

Converter = Callable[[Any], "ModelProto"]

OPSETS = {"": 18, "ai.onnx.ml": 3}
"""Versions of ONNX's operators that are asked of every converter: the newest that tf2onnx knows."""

IR_VERSION = 8
"""Version of the file format that came with them."""


def from_sklearn(estimator: Any) -> ModelProto:
    """Convert a classifier of scikit-learn, or a pipeline or ensemble of them, with skl2onnx."""
    from sklearn.calibration import CalibratedClassifierCV

    if isinstance(estimator, CalibratedClassifierCV) and estimator.method == "temperature":
        return from_calibrated(estimator, from_sklearn)
    estimator = _stand_in(estimator)
    has_probabilities = hasattr(estimator, "predict_proba")
    model = skl2onnx_graph(estimator, estimator.n_features_in_, {"zipmap": False} if has_probabilities else {})
    if not has_probabilities:
        del model.graph.output[1:]  # decision scores, which nobody should take for probabilities
    return model


def from_calibrated(estimator: Any, converter: Converter) -> ModelProto:
    """Convert a fitted `CalibratedClassifierCV` by the converter of what it calibrates.

    skl2onnx takes a temperature for isotonic, and knows scikit-learn's own classifiers only.
    """
    from onnx import TensorProto, compose, helper

    nodes, tensors, answers = [], [], []
    for number, member in enumerate(estimator.calibrated_classifiers_):
        model = _calibrated(_scores(member.estimator, converter), member)
        graph = compose.add_prefix(model, f"{number}/").graph
        tensors += graph.initializer
        nodes += [helper.make_node("Identity", ["features"], [graph.input[0].name]), *graph.node]
        answers.append(graph.output[0].name)
    nodes.append(helper.make_node("Mean", answers, ["probabilities"]))
    features, probabilities = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in ("features", "probabilities")
    )
    opsets = [helper.make_opsetid(*opset) for opset in OPSETS.items()]
    graph = helper.make_graph(nodes, "calibrated", [features], [probabilities], tensors)
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _scores(estimator: Any, converter: Converter) -> ModelProto:
    """Return a graph whose last output are the scores that calibration sees: of decisions, else of probabilities."""
    if hasattr(estimator, "decision_function"):
        return skl2onnx_graph(_stand_in(estimator), estimator.n_features_in_, {"zipmap": False, "raw_scores": True})
    return converter(estimator)


def _calibrated(model: ModelProto, member: Any) -> ModelProto:
    """Return a graph of scores with what corrects them, as one softmax, which does not underflow.

    A temperature is softmax(beta × logits). Sigmoids that are divided by their sum are the softmax of their logarithms.
    """
    from onnx import helper, numpy_helper

    is_binary, has_decisions = len(member.classes) == 2, hasattr(member.estimator, "decision_function")
    steps: list[tuple[str, Any]] = []
    if member.method == "temperature":
        steps += [] if has_decisions else [("Add", 1e-12), ("Log", None)]
        steps += [("Mul", member.calibrators[0].beta_)]
    else:
        a, b = np.array([(calibrator.a_, calibrator.b_) for calibrator in member.calibrators]).T
        if is_binary:  # of the second class's score alone
            steps += [("MatMul", [[0, 0], [0, -a[0]]]), ("Add", [0, -b[0]])]
        else:
            steps += [("Mul", a), ("Add", b), ("Softplus", None), ("Neg", None)]
    value = model.graph.output[-1].name
    for number, (kind, constant) in enumerate(steps):
        given = [value]
        if constant is not None:
            given.append(f"constant {number}")
            model.graph.initializer.append(numpy_helper.from_array(np.array(constant, np.float32), given[-1]))
        model.graph.node.append(helper.make_node(kind, given, [value := f"step {number}"]))
    model.graph.node.append(helper.make_node("Softmax", [value], ["calibrated"], axis=1))
    del model.graph.output[:-1]
    model.graph.output[0].name = "calibrated"
    return model


def from_xgboost(estimator: Any) -> ModelProto:
    """Convert a fitted `XGBoostClassifier`."""
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    inputs = [("features", FloatTensorType([None, estimator.n_features_in_]))]
    model = convert_xgboost(estimator.booster_, initial_types=inputs)
    del model.graph.output[0]  # positions in `classes_`, not labels
    return model


def from_neighbors(estimator: Any) -> ModelProto:
    """Convert a fitted `KNeighborsClassifier`, Euclidean, by distances in float64.

    Those of skl2onnx are float32, which far from the training rows takes other rows for the nearest.
    """
    from onnx import TensorProto, helper, numpy_helper

    if estimator.effective_metric_ != "euclidean" or callable(estimator.weights):
        return from_sklearn(estimator)
    trained = np.asarray(estimator._fit_X, dtype=np.float64)
    constants = {
        "twice": 2 * trained.T,
        "squares": (trained**2).sum(axis=1)[np.newaxis],
        "one_hot": np.eye(len(estimator.classes_))[estimator._y],
        "k": np.array([estimator.n_neighbors]),
        "zero": np.array(0.0),
        "first": np.array([1]),
        "last": np.array([2]),
    }
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Cast", ["features"], ["x"], {"to": TensorProto.DOUBLE}),
        ("Mul", ["x", "x"], ["x_squared"], {}),
        ("ReduceSum", ["x_squared", "first"], ["length"], {"keepdims": 1}),
        ("MatMul", ["x", "twice"], ["products"], {}),
        ("Add", ["length", "squares"], ["lengths"], {}),
        ("Sub", ["lengths", "products"], ["differences"], {}),
        ("Max", ["differences", "zero"], ["distances"], {}),
        ("TopK", ["distances", "k"], ["nearest", "places"], {"largest": 0}),
        ("Gather", ["one_hot", "places"], ["classes"], {}),
        ("Sqrt", ["nearest"], ["distance"], {}),
        ("Equal", ["distance", "zero"], ["is_same"], {}),
        ("Cast", ["is_same"], ["same"], {"to": TensorProto.DOUBLE}),
        ("ReduceSum", ["same", "first"], ["n_same"], {"keepdims": 1}),
        ("Greater", ["n_same", "zero"], ["has_same"], {}),
        ("Reciprocal", ["distance"], ["nearness"], {}),
        ("Where", ["has_same", "same", "nearness"], ["weights"], {}),  # rows that are the same outweigh all others
    ]
    if estimator.weights == "uniform":
        steps = [*steps[:9], ("Sub", ["nearest", "nearest"], ["none"], {}), ("Exp", ["none"], ["weights"], {})]
    steps += [
        ("Unsqueeze", ["weights", "last"], ["weight"], {}),
        ("Mul", ["classes", "weight"], ["weighted"], {}),
        ("ReduceSum", ["weighted", "first"], ["votes"], {"keepdims": 0}),
        ("ReduceSum", ["votes", "first"], ["all_votes"], {"keepdims": 1}),
        ("Div", ["votes", "all_votes"], ["shares"], {}),
        ("Cast", ["shares"], ["probabilities"], {"to": TensorProto.FLOAT}),
    ]
    features, probabilities = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in ("features", "probabilities")
    )
    graph = helper.make_graph(
        [helper.make_node(kind, given, found, **attributes) for kind, given, found, attributes in steps],
        "neighbours",
        [features],
        [probabilities],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid(*opset) for opset in OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def from_keras(estimator: Any) -> ModelProto:
    """Convert `network_`, a built Keras model that ends in the probabilities of `classes_`, by Keras' own exporter."""
    import onnx

    with tempfile.TemporaryDirectory() as folder, quiet():
        network = estimator.network_
        network(np.zeros((1, *(size or 1 for size in network.input_shape[1:])), np.float32))  # else Keras refuses
        path = os.path.join(folder, "network.onnx")
        network.export(path, format="onnx", verbose=False, opset_version=OPSETS[""])
        return onnx.load(path)


def skl2onnx_graph(model: Any, n_features: int, options: dict[str, Any] | None = None, opset: int = OPSETS[""]) -> Any:
    """Return skl2onnx's graph of a fitted estimator or transformer; its input is called ``features``."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.preprocessing import StandardScaler

    _mend_histogram_boosting()
    return to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, n_features]))],
        # By default a scaler becomes a multiplication by 1/sd. Its last digit differs, which flips thresholds of trees.
        options={StandardScaler: {"div": "div"}} | ({id(model): options} if options else {}),
        target_opset={**OPSETS, "": opset},
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what TensorFlow's C++ code writes to stdout and stderr nowhere; no setting silences it."""
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in saved:
            os.dup2(nowhere, descriptor)
        yield
    finally:
        for descriptor, copied in saved.items():
            os.dup2(copied, descriptor)
            os.close(copied)
        os.close(nowhere)


def stand_ins(steps: Sequence[tuple[str, Any]], n_features: int) -> list[tuple[str, Any]]:
    """Return the transformers of a pipeline as skl2onnx knows them: a scaler of channels scales every column."""
    from sklearn.preprocessing import StandardScaler

    from emobench.models.scaling import ChannelScaler

    found = []
    for name, step in steps:
        if isinstance(step, ChannelScaler):
            scaler, n_frames = StandardScaler(), n_features // len(step.mean_)
            scaler.mean_, scaler.scale_ = np.tile(step.mean_, n_frames), np.tile(step.scale_, n_frames)
            scaler.n_features_in_ = n_features
            step = scaler
        found.append((name, step))
    return found


# -- estimators that answer the same, and that skl2onnx exports right ----------------------------------------------


def _stand_in(estimator: Any) -> Any:
    """Return an estimator with the same answers where skl2onnx 1.20 has none or a wrong converter for this one."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import VotingClassifier

    from emobench.models.perceptron import WeightedMLPClassifier

    table = {
        DummyClassifier: _dummy,
        LinearDiscriminantAnalysis: _linear_discriminant,
        VotingClassifier: _voting,
        WeightedMLPClassifier: _perceptron,
    }
    return table.get(type(estimator), lambda same: same)(estimator)


def _dummy(estimator: Any) -> Any:
    """Return constant probabilities as a linear model that weighs no feature; it has no converter."""
    if estimator.strategy not in ("prior", "most_frequent"):
        return estimator
    prior = np.asarray(estimator.predict_proba(np.zeros((1, 1)))[0])
    scores = np.log(np.maximum(prior, 1e-30))
    if len(prior) == 1:
        raise ValueError("a model of one class has nothing to decide")
    intercept = scores[1:] - scores[:1] if len(prior) == 2 else scores
    return _logistic(estimator, np.zeros((len(intercept), estimator.n_features_in_)), intercept)


def _linear_discriminant(estimator: Any) -> Any:
    """Return the logistic regression with the same weights: of two classes skl2onnx gives the wrong probabilities."""
    return _logistic(estimator, estimator.coef_, estimator.intercept_)


def _logistic(estimator: Any, coef: np.ndarray, intercept: np.ndarray) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression()
    model.classes_, model.n_features_in_ = estimator.classes_, estimator.n_features_in_
    model.coef_, model.intercept_ = coef, intercept
    return model


def _perceptron(estimator: Any) -> Any:
    """Return the perceptron of scikit-learn that it is."""
    from sklearn.neural_network import MLPClassifier

    estimator = copy.copy(estimator)
    estimator.__class__ = MLPClassifier
    return estimator


def _voting(estimator: Any) -> Any:
    estimator = copy.copy(estimator)
    estimator.flatten_transform = False  # without which skl2onnx refuses soft voting
    estimator.estimators_ = [_stand_in(member) for member in estimator.estimators_]
    return estimator


@functools.cache
def _mend_histogram_boosting() -> None:
    """Give skl2onnx a converter of histogram boosting that says by integers where missing values go.

    Its own, of version 1.20, gives ONNX a bool for each leaf, which is refused.
    """
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
    from skl2onnx.operator_converters.random_forest import convert_sklearn_random_forest_classifier
    from sklearn.ensemble import HistGradientBoostingClassifier

    def convert(scope: Any, operator: Any, container: Any) -> None:
        add_node, name = container.add_node, "nodes_missing_value_tracks_true"

        def add(*args: Any, **attributes: Any) -> None:
            add_node(*args, **attributes | {name: [int(value) for value in attributes[name]]})

        container.add_node = add
        try:
            convert_sklearn_random_forest_classifier(scope, operator, container)
        finally:
            container.add_node = add_node

    update_registered_converter(
        HistGradientBoostingClassifier,
        "SklearnHistGradientBoostingClassifier",
        calculate_linear_classifier_output_shapes,
        convert,
        options={"zipmap": [True, False, "columns"], "raw_scores": [True, False], "nocl": [True, False]},
    )
