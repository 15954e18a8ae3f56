"""Probabilities of any classifier, calibrated on speakers that it has not heard."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils._param_validation import HasMethods, Integral, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from emobench.protocols.folds import inner_folds

N_SPLITS = 5


class SpeakerCalibratedClassifier(ClassifierMixin, BaseEstimator):
    """Calibrate a classifier by what it says of speakers that it has not heard.

    The classifier answers each of `n_splits` parts of the speakers after a fit on the others, and is then fitted on all
    of them; scikit-learn's `CalibratedClassifierCV` learns from these answers how sure it may be. Folds of utterances,
    its default, would share speakers and so call the classifier better than it is.

    Parameters
    ----------
    estimator : classifier
        With a `decision_function` or `predict_proba`.
    method : {"sigmoid", "temperature"}
        A sigmoid a class (Platt), or one temperature, which leaves the order of the classes as it is.
    n_splits : int
        Parts of the speakers, or as many as there are speakers.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
    calibrated_ : CalibratedClassifierCV
        With one fitted classifier, `estimator_`, and what corrects its answers.

    References
    ----------
    Platt (1999), Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods.
    Guo et al. (2017), On calibration of modern neural networks, ICML.
    """

    _parameter_constraints: ClassVar = {
        "estimator": [HasMethods(["fit", "predict"])],
        "method": [StrOptions({"sigmoid", "temperature"})],
        "n_splits": [Interval(Integral, 2, None, closed="left")],
    }

    def __init__(self, estimator: Any, *, method: str = "sigmoid", n_splits: int = N_SPLITS) -> None:
        self.estimator = estimator
        self.method = method
        self.n_splits = n_splits

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fit the classifier and what corrects its answers.

        Parameters
        ----------
        X : array-like of shape (n_utterances, n_features)
        y : array-like of shape (n_utterances,)
        groups : array-like of shape (n_utterances,), optional
            Speaker of each utterance. Without them each utterance is its own speaker.

        Raises
        ------
        ValueError
            If all utterances of a class are in one part of the speakers.
        """
        from sklearn.calibration import CalibratedClassifierCV

        self._validate_params()
        X, y = validate_data(self, X, y, dtype=np.float32)
        groups = np.arange(len(y)) if groups is None else np.asarray(groups)
        self.classes_ = np.unique(y)
        own = {"groups": groups} if has_fit_parameter(self.estimator, "groups") else {}
        splits = self._splits(y, groups)
        self.calibrated_ = CalibratedClassifierCV(self.estimator, method=self.method, cv=splits, ensemble=False)
        self.calibrated_.fit(X, y, **own)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the calibrated probability of each class: shape (n_utterances, n_classes)."""
        check_is_fitted(self)
        return self.calibrated_.predict_proba(validate_data(self, X, dtype=np.float32, reset=False))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each row."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(axis=1)]

    @property
    def estimator_(self) -> Any:
        """The classifier, fitted on all speakers."""
        return self.calibrated_.calibrated_classifiers_[0].estimator

    @property
    def n_iter_(self) -> Any:
        """Iterations of the classifier, where it has them."""
        return self.estimator_.n_iter_

    def _splits(self, y: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (train, test) rows of each part of the speakers; refuse a training part that lacks a class."""
        n_splits = min(self.n_splits, len(np.unique(groups)))
        folds = inner_folds(groups.astype(str).tolist(), [""] * len(y), n_splits)
        for fold in folds:
            if missing := sorted(set(self.classes_.tolist()) - set(y[fold.train].tolist())):
                raise ValueError(
                    f"class {missing[0]!r} is spoken in one of {n_splits} parts of the speakers only, so it cannot be "
                    "calibrated. Add speakers of this class, or leave `calibrate` out."
                )
        return [(fold.train, fold.test) for fold in folds]
