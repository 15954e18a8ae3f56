"""Gradient-boosted trees, as a scikit-learn classifier that takes labels as they are.

`xgboost.XGBClassifier` wants the classes 0 to k-1 without a gap, which an inner fold of a speaker split cannot
promise. `XGBoostClassifier` encodes the labels of each fit, trains on one thread, and predicts with the booster
itself, which spares a lone clip most of the wrapper's time. XGBoost is imported when first needed.
"""

from __future__ import annotations

import numbers
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from emobench.errors import ConfigError


class XGBoostClassifier(ClassifierMixin, BaseEstimator):
    """Classify feature vectors with gradient-boosted trees (XGBoost's histogram method, one thread).

    Parameters
    ----------
    n_estimators : int, default=300
        Rounds of boosting; each adds one tree a class.
    max_depth : int, default=4
    learning_rate : float, default=0.3
    subsample, colsample_bytree : float in (0, 1], default=1.0
        Share of clips, of features, that each tree sees.
    min_child_weight, reg_lambda : float, default=1.0
    gamma : float, default=0.0
    class_weight : "balanced" or None, default=None
        As in scikit-learn's classifiers.
    random_state : int, RandomState or None, default=None
        The same integer and data give the same trees.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        Labels of the training data, sorted; the order of the columns of `predict_proba`.
    n_features_in_ : int
    booster_ : xgboost.Booster

    Raises
    ------
    ConfigError
        From `fit`, if XGBoost refuses a parameter. It is a ValueError.
    ValueError
        From `fit`, if y holds fewer than two classes.
    """

    def __init__(
        self,
        *,
        n_estimators: int = 300,
        max_depth: int = 4,
        learning_rate: float = 0.3,
        subsample: float = 1.0,
        colsample_bytree: float = 1.0,
        min_child_weight: float = 1.0,
        reg_lambda: float = 1.0,
        gamma: float = 0.0,
        class_weight: str | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.min_child_weight = min_child_weight
        self.reg_lambda = reg_lambda
        self.gamma = gamma
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Grow the trees.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
        y : array-like of shape (n_clips,)
            Labels of any type, strings included.
        """
        from xgboost import XGBClassifier
        from xgboost.core import XGBoostError

        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "y must hold at least two classes for XGBoostClassifier. Got only one class, "
                f"{self.classes_.tolist()[0]!r}. Add recordings of another class or use fewer folds."
            )
        params = self.get_params(deep=False)
        class_weight = params.pop("class_weight")
        weights = compute_sample_weight(class_weight, codes) if class_weight else None
        seed = check_random_state(params.pop("random_state")).randint(2**31 - 1)
        model = XGBClassifier(**params, random_state=seed, tree_method="hist", n_jobs=1)
        try:
            self.booster_ = model.fit(X, codes, sample_weight=weights).get_booster()
        except XGBoostError as error:
            reason = str(error).splitlines()[0].rstrip(".")  # the rest explains the parameter, or traces C++
            raise ConfigError(
                f"The parameters of XGBoostClassifier must be such that XGBoost can train. Got {params!r}. It says: "
                f"{reason}. Correct the parameter."
            ) from error
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, of shape (n_clips, n_classes)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return probabilities(self.booster_, X)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each clip."""
        codes = self.predict_proba(X).argmax(axis=1)
        return self.classes_[codes]


def probabilities(booster: Any, X: np.ndarray) -> np.ndarray:
    """Return the probability of each class for float32 features, of shape (n_clips, n_classes)."""
    proba = booster.inplace_predict(X, validate_features=False)
    # Of two classes XGBoost gives the probability of the second.
    return np.column_stack([1 - proba, proba]) if proba.ndim == 1 else proba


def check_trees(estimator: Any) -> None:
    """Raise `ConfigError` for a parameter of XGBoost that it would refuse, or misread, only in `fit`."""
    integer, number, share = "an integer of at least 1", "a number of at least 0", "a number above 0, at most 1"
    rules = {
        "n_estimators": (integer, lambda value: value >= 1 and isinstance(value, numbers.Integral)),
        "max_depth": (integer, lambda value: value >= 1 and isinstance(value, numbers.Integral)),
        "learning_rate": (share, lambda value: 0 < value <= 1),
        "subsample": (share, lambda value: 0 < value <= 1),
        "colsample_bytree": (share, lambda value: 0 < value <= 1),
        "min_child_weight": (number, lambda value: value >= 0),
        "reg_lambda": (number, lambda value: value >= 0),
        "gamma": (number, lambda value: value >= 0),
    }
    if estimator.class_weight not in ("balanced", None):
        weight = estimator.class_weight
        raise ConfigError(f"class_weight of XGBoost must be balanced or null. Got {weight!r}. Correct it.")
    for name, (must, is_valid) in rules.items():
        value = getattr(estimator, name)
        if not isinstance(value, numbers.Real) or not is_valid(value):
            raise ConfigError(f"{name} of XGBoost must be {must}. Got {value!r}. Correct it.")
