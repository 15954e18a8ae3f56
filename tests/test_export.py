"""Fitted models as ONNX: the same answers, in a process that has only NumPy and ONNX Runtime."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from threadpoolctl import threadpool_limits

from emobench.bundles import converters
from emobench.bundles.converters import from_sklearn, from_xgboost
from emobench.bundles.export import export, to_onnx
from emobench.bundles.session import Session
from emobench.errors import NoBundleError
from emobench.models.boosting import XGBoostClassifier

MODELS = {
    "svc-rbf": SVC(C=10),
    "svc-linear": SVC(kernel="linear"),
    "svc-poly": SVC(kernel="poly"),
    "linear-svc": LinearSVC(),
    "sgd": SGDClassifier(random_state=0),
    "mlp": MLPClassifier((32, 16), max_iter=500, random_state=0),
    "logreg": LogisticRegression(),
    "lda": LinearDiscriminantAnalysis(),
    "knn": KNeighborsClassifier(),
    "xgboost": XGBoostClassifier(n_estimators=40, random_state=0),
    "forest": RandomForestClassifier(30, random_state=0),
    "extra-trees": ExtraTreesClassifier(30, random_state=0),
    "histogram": HistGradientBoostingClassifier(max_iter=8, random_state=0),
    "dummy": DummyClassifier(),
    "dummy-mode": DummyClassifier(strategy="most_frequent"),
    "voting": VotingClassifier(
        [("a", LogisticRegression()), ("b", HistGradientBoostingClassifier(max_iter=4, random_state=0))], voting="soft"
    ),
    "sigmoid": CalibratedClassifierCV(SVC(), ensemble=False),
    "temperature": CalibratedClassifierCV(SVC(), method="temperature"),
    "temperature-forest": CalibratedClassifierCV(
        RandomForestClassifier(20, max_depth=4, random_state=0), method="temperature", ensemble=False
    ),
}
CASES = {"two": (2, ()), "five": (5, ()), "one-missing": (5, (2,))}


def rows(n_classes, missing=()):
    """Return float32 rows and their codes; `missing` classes have none."""
    X, y = make_classification(300, 20, n_informative=15, n_classes=n_classes, random_state=0)
    X = (30 * X + 5).astype(np.float32)
    is_kept = ~np.isin(y, missing)
    return X[is_kept], y[is_kept]


def fitted(model, case):
    """Return a pipeline with scaling that was fitted on the rows of a case."""
    with threadpool_limits(1):  # threads of histogram boosting wait for each other for seconds
        return make_pipeline(StandardScaler(), clone(model)).fit(*rows(*CASES[case]))


def converter(model):
    return from_xgboost if isinstance(model, XGBoostClassifier) else from_sklearn


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Fitted pipelines, rows that they have not seen, and a bare process's answers to these, by model and case."""
    folder = tmp_path_factory.mktemp("models")
    fits = {}
    for name, model in MODELS.items():
        for case, (n_classes, missing) in CASES.items():
            X, _ = rows(n_classes, missing)
            pipeline = fitted(model, case)
            data, _ = export(pipeline, X, n_classes=n_classes, converter=converter(model))
            (folder / f"{name}.{case}.onnx").write_bytes(data)
            unseen = X + np.random.default_rng(1).normal(0, 3, X.shape).astype(np.float32)
            np.save(folder / f"{name}.{case}.npy", unseen)
            fits[name, case] = pipeline, unseen
    script = Path(__file__).with_name("bare_predictions.py")
    process = subprocess.run([sys.executable, "-P", script, folder], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    return {key: (*fit, dict(np.load(folder / f"{'.'.join(key)}.npz"))) for key, fit in fits.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", MODELS)
def test_exported_model_answers_alike_with_numpy_and_onnxruntime_alone(answers, name, case):
    pipeline, X, found = answers[name, case]
    np.testing.assert_array_equal(found["label"], pipeline.predict(X))
    assert found["label"].dtype == np.int64
    assert ("probabilities" in found) == hasattr(pipeline, "predict_proba")
    if "probabilities" in found:
        expected = np.zeros((len(X), CASES[case][0]))
        expected[:, pipeline.classes_] = pipeline.predict_proba(X)
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["svc-rbf", "mlp", "xgboost", "forest", "voting", "temperature"])
def test_equal_fits_are_exported_to_equal_bytes(name):
    model, (X, _) = MODELS[name], rows(5)
    first, second = (to_onnx(fitted(model, "five"), X.shape[1], 5, converter(model)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["lda", "xgboost", "forest", "dummy"])
def test_classifier_without_scaling_is_exported_alike(name, case):
    n_classes, missing = CASES[case]
    X, y = rows(n_classes, missing)
    model = clone(MODELS[name]).fit(X, y)
    data, parity = export(model, X, n_classes=n_classes, converter=converter(model))
    np.testing.assert_array_equal(Session(data, n_classes).labels(X), model.predict(X))
    assert parity.n_rows == 3 * len(X)
    assert parity.max_difference <= 1e-5


REFUSED = {
    "isotonic": ("five", CalibratedClassifierCV(LogisticRegression(), method="isotonic"), "probabilities"),
    "calibrated pipeline of two classes": (
        "two",
        CalibratedClassifierCV(make_pipeline(StandardScaler(), SVC()), ensemble=False),
        "probabilities of the fitted and the exported model differ by",
    ),
    "hard vote": ("two", VotingClassifier([("a", LogisticRegression()), ("b", SVC())]), "labels"),
    "naive Bayes": ("five", GaussianNB(), "ten deviations away"),
    "quadratic discriminant": ("five", QuadraticDiscriminantAnalysis(reg_param=0.1), "no bundle"),
    "dummy at random": ("two", DummyClassifier(strategy="uniform"), "DummyClassifier cannot be exported"),
}


@pytest.mark.parametrize("case, model, reason", REFUSED.values(), ids=REFUSED)
def test_export_refuses_what_would_answer_otherwise(case, model, reason):
    n_classes, missing = CASES[case]
    with pytest.raises(NoBundleError, match=reason):
        export(fitted(model, case), rows(n_classes, missing)[0], n_classes=n_classes)


def test_scaling_is_exported_to_the_bit():
    """As a multiplication by 1/sd, skl2onnx's default, its last digit differs, which flips thresholds of trees."""
    X, y = rows(5)
    scaler = make_pipeline(StandardScaler()).fit(X, y)
    session = onnxruntime.InferenceSession(converters.skl2onnx_graph(scaler, X.shape[1]).SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"features": X})[0], scaler.transform(X))


class Threshold(ClassifierMixin, BaseEstimator):
    """Class 1 where the first feature is at most that of the median row, else class 0; it brings its own converter."""

    def fit(self, X, y):
        self.classes_, self.threshold_ = np.arange(5), np.float32(np.sort(X[:, 0])[len(X) // 2])
        return self

    def predict_proba(self, X):
        return np.eye(5, dtype=np.float32)[(X[:, 0] <= self.threshold_).astype(int)]

    def predict(self, X):
        return self.predict_proba(X).argmax(axis=1)

    def convert(self):
        constants = [
            numpy_helper.from_array(np.array([0]), "zero"),
            numpy_helper.from_array(self.threshold_, "threshold"),
            numpy_helper.from_array(np.eye(5, dtype=np.float32), "answers"),
        ]
        nodes = [
            helper.make_node("Gather", ["X", "zero"], ["column"], axis=1),
            helper.make_node("Flatten", ["column"], ["values"], axis=1),
            helper.make_node("LessOrEqual", ["values", "threshold"], ["is_below"]),
            helper.make_node("Cast", ["is_below"], ["indices"], to=onnx.TensorProto.INT64),
            helper.make_node("Gather", ["indices", "zero"], ["index"], axis=1),
            helper.make_node("GatherND", ["answers", "index"], ["P"]),
        ]
        return model_of(nodes, constants)


def model_of(nodes, constants=(), *, output="P", shape=("n", 5)):
    """Return a model from X to P."""
    graph = helper.make_graph(
        nodes,
        "mine",
        [helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, ["n", None])],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape)],
        list(constants),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_rows_own_converter_is_used_and_its_errors_are_named():
    def fails(estimator):
        raise KeyError("no such layer")

    X, y = rows(5)
    pipeline = make_pipeline(StandardScaler(), Threshold()).fit(X, y)
    data, _ = export(pipeline, X, n_classes=5, converter=Threshold.convert)
    np.testing.assert_array_equal(Session(data, 5).labels(X), pipeline.predict(X))
    with pytest.raises(NoBundleError, match="Threshold cannot be exported to ONNX .KeyError: 'no such layer'"):
        export(pipeline, X, n_classes=5, converter=fails)


def test_parity_refuses_a_converter_that_answers_otherwise():
    def lies(estimator):
        estimator = Threshold().fit(*rows(5))
        estimator.threshold_ = np.float32(0.5)
        return estimator.convert()

    X, y = rows(5)
    with pytest.raises(NoBundleError, match="probabilities of the fitted and the exported model differ by 1.0e"):
        export(make_pipeline(StandardScaler(), Threshold()).fit(X, y), X, n_classes=5, converter=lies)


def test_converter_with_a_foreign_operator_makes_no_bundle():
    X, y = rows(5)

    def foreign(estimator):
        model = model_of([helper.make_node("Gelu", ["X"], ["P"], domain="com.microsoft")])
        model.opset_import.add(domain="com.microsoft", version=1)
        return model

    with pytest.raises(NoBundleError, match="com.microsoft"):
        export(Threshold().fit(X, y), X, n_classes=5, converter=foreign)
