"""A fitted pipeline as a few array operations, for one recording at a time.

scikit-learn checks arguments, parameters and itself in every step of every call, which takes half a millisecond: as
long as a short recording's features. Here the checks are made once, when a model is compiled, and a call does what is
left. The answers are those of `predict` and `predict_proba`; the tests hold the two to each other for every row of
`MODELS`. A model that is not written out here is called as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.errors import BundleError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Answer = tuple[np.ndarray, np.ndarray | None]
"""Position in ``classes_`` of each row's class, and the probability of each class, or None."""

FEW_ROWS = 4  # that NumPy walks through trees faster than XGBoost
MAX_KERNEL = 2**21  # values of a kernel matrix at a time: 16 MB


def compiled(estimator: Pipeline, n_classes: int) -> Callable[[np.ndarray], Answer]:
    """Return a function that does what a fitted pipeline of `emobench.models.build` does.

    Parameters
    ----------
    estimator : Pipeline
        Fitted on integer codes; its ``classes_`` may have gaps.
    n_classes : int
        Columns of the probabilities; a code that the estimator has not seen has probability zero.

    Returns
    -------
    classify : callable
        Takes finite float32 of shape (n, n_features); returns codes, int of shape (n,), and probabilities, float of
        shape (n, n_classes), or None for a model without. It changes nothing, not even its argument.

    Raises
    ------
    BundleError
        Later, if the answer is not finite.
    """
    model, seen = estimator[-1], np.asarray(estimator.classes_)
    form = _FORMS.get(f"{type(model).__module__}:{type(model).__qualname__}", _as_it_is)(model)
    scale = _scaler(estimator.named_steps.get("scale"))
    has_gaps = len(seen) != n_classes

    def classify(X: np.ndarray) -> Answer:
        with np.errstate(all="ignore"):  # the result is looked at
            positions, proba = form(scale(X))
        if proba is not None:
            if proba.shape != (len(X), len(seen)):
                raise BundleError(
                    f"A model must give {len(seen)} probabilities a row. Got shape {proba.shape}. Train it again."
                )
            if not np.isfinite(proba).all():
                raise _not_finite("probabilities")
            if has_gaps:
                known, proba = proba, np.zeros((len(X), n_classes), dtype=proba.dtype)
                proba[:, seen] = known
        return seen[positions], proba

    return classify


def _not_finite(what: str) -> BundleError:
    return BundleError(f"A model must give finite {what}. It does not. Train it again, or scale its features.")


def _scaler(scaler: Any) -> Callable[[np.ndarray], np.ndarray]:
    if scaler is None:
        return lambda X: X
    if not (scaler.with_mean and scaler.with_std):
        return scaler.transform
    mean, deviation = (np.asarray(values, dtype=np.float32) for values in (scaler.mean_, scaler.scale_))
    return lambda X: (X - mean) / deviation


def _as_it_is(model: Any) -> Callable[[np.ndarray], Answer]:
    """Call any classifier; `predict` and `predict_proba` need not agree, so both are asked."""
    classes = np.asarray(model.classes_)

    def classify(X: np.ndarray) -> Answer:
        positions = np.searchsorted(classes, model.predict(X))
        return positions, np.asarray(model.predict_proba(X)) if hasattr(model, "predict_proba") else None

    return classify


def _most_probable(proba: np.ndarray) -> Answer:
    return proba.argmax(axis=1), proba


def _network(model: Any) -> Callable[[np.ndarray], Answer]:
    from emobench.models.cnn import DivergedError, probabilities

    def classify(X: np.ndarray) -> Answer:
        try:
            return _most_probable(probabilities(model.weights_, X, model.pool_size))
        except DivergedError as error:
            raise BundleError(str(error)) from None

    return classify


def _trees(model: Any) -> Callable[[np.ndarray], Answer]:
    from emobench.models.boosting import forest_of, probabilities

    forest = forest_of(model)

    def classify(X: np.ndarray) -> Answer:
        is_few = len(X) <= FEW_ROWS
        return _most_probable(forest.probabilities(X) if is_few else probabilities(model.booster_, X))

    return classify


_ACTIVATIONS = {
    "identity": lambda X: X,
    "relu": lambda X: np.maximum(X, 0, out=X),
    "tanh": lambda X: np.tanh(X, out=X),
    "logistic": lambda X: _expit(X),
}


def _expit(X: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(X, out=X)


def _perceptron(model: Any) -> Callable[[np.ndarray], Answer]:
    if model.out_activation_ not in ("logistic", "softmax"):
        return _as_it_is(model)
    *hidden, last = list(zip(model.coefs_, model.intercepts_, strict=True))
    activate = _ACTIVATIONS[model.activation]
    is_binary = model.out_activation_ == "logistic"

    def classify(X: np.ndarray) -> Answer:
        for weights, bias in hidden:
            X = activate(X @ weights + bias)
        logits = X @ last[0] + last[1]
        if is_binary:  # one output: the second class
            second = _expit(logits)
            proba = np.hstack([1 - second, second])
            return (second[:, 0] > 0.5).astype(np.intp), proba
        logits -= logits.max(axis=1, keepdims=True)
        proba = np.exp(logits, out=logits)
        proba /= proba.sum(axis=1, keepdims=True)
        return _most_probable(proba)

    return classify


def _svm(model: Any) -> Callable[[np.ndarray], Answer]:
    """Write out libsvm's vote of one class against one: each pair of classes has a decision, a tie goes to the first.

    References
    ----------
    Chang & Lin (2011), LIBSVM: a library for support vector machines, ACM TIST 2, section 7.
    """
    if model.kernel != "rbf" or model.break_ties or hasattr(model, "predict_proba"):
        return _as_it_is(model)
    vectors, bias, gamma = model.support_vectors_, model._intercept_, float(model._gamma)
    n_classes = len(model._n_support)
    pairs = np.array(list(itertools.combinations(range(n_classes), 2)))
    weights = _pair_weights(model._dual_coef_, model._n_support, pairs)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    rows_at_once = max(1, MAX_KERNEL // len(vectors))

    def vote(X: np.ndarray) -> np.ndarray:
        distances = squares - 2 * (X @ vectors.T) + np.einsum("ij,ij->i", X, X)[:, np.newaxis]
        decisions = np.exp(-gamma * distances) @ weights + bias
        if not np.isfinite(decisions).all():
            raise _not_finite("decisions")
        winners = np.where(decisions > 0, pairs[:, 0], pairs[:, 1])
        return (winners[:, :, np.newaxis] == np.arange(n_classes)).sum(axis=1).argmax(axis=1)

    def classify(X: np.ndarray) -> Answer:
        X = X.astype(np.float64)  # as libsvm
        if len(X) <= rows_at_once:
            return vote(X), None
        return np.concatenate([vote(X[start : start + rows_at_once]) for start in range(0, len(X), rows_at_once)]), None

    return classify


def _pair_weights(dual: np.ndarray, n_support: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the weight of each support vector in the decision of each pair: (n_vectors, n_pairs).

    Support vectors are sorted by class. A vector of class i has a coefficient for each other class j: in row j - 1
    where j comes behind i, else in row j.
    """
    ends = np.cumsum(n_support)
    weights = np.zeros((dual.shape[1], len(pairs)))
    for pair, (first, second) in enumerate(pairs):
        of_first = slice(ends[first] - n_support[first], ends[first])
        of_second = slice(ends[second] - n_support[second], ends[second])
        weights[of_first, pair] = dual[second - 1, of_first]
        weights[of_second, pair] = dual[first, of_second]
    return weights


_FORMS: dict[str, Callable[[Any], Callable[[np.ndarray], Answer]]] = {
    "emobench.models.cnn:CNNClassifier": _network,
    "emobench.models.boosting:XGBoostClassifier": _trees,
    "sklearn.neural_network._multilayer_perceptron:MLPClassifier": _perceptron,
    "sklearn.svm._classes:SVC": _svm,
}
