"""scikit-learn's multilayer perceptron, with weights of the classes."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self

from sklearn.neural_network import MLPClassifier
from sklearn.utils import compute_sample_weight
from sklearn.utils._param_validation import StrOptions


class WeightedMLPClassifier(MLPClassifier):
    """`sklearn.neural_network.MLPClassifier` that may weigh classes in its loss.

    Parameters
    ----------
    class_weight : "balanced" or None
        As in scikit-learn's other classifiers.
    **params
        Of `MLPClassifier`.
    """

    _parameter_constraints: ClassVar = {
        **MLPClassifier._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), None],
    }

    def __init__(self, *, class_weight: str | None = None, **params: Any) -> None:
        super().__init__(**params)
        self.class_weight = class_weight

    # scikit-learn reads the names of an estimator's parameters here.
    __init__.__dict__["__signature__"] = inspect.Signature(
        [
            *inspect.signature(MLPClassifier.__init__).parameters.values(),
            inspect.Parameter("class_weight", inspect.Parameter.KEYWORD_ONLY, default=None),
        ]
    )

    def fit(self, X: Any, y: Any) -> Self:
        """Train the network from scratch; see `MLPClassifier.fit`."""
        weights = compute_sample_weight(self.class_weight, y) if self.class_weight else None
        return super().fit(X, y, sample_weight=weights)
