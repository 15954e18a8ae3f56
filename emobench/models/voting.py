"""The soft vote of other models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from emobench import models
from emobench.errors import ConfigError, UnknownNameError, did_you_mean
from emobench.models import Family, Float, ModelSpec, ParameterError

MEMBERS: tuple[str | Mapping[str, Any], ...] = ({"name": "svm", "params": {"calibrate": True}}, {"name": "logistic"})
"""Members of a vote that names none."""

KEYS = {"name": str, "id": str, "params": Mapping}


@dataclass(frozen=True)
class Member:
    """A model that votes: its name among the members, its row, and its parameters."""

    label: str
    spec: ModelSpec
    params: Mapping[str, Any]


def list_members(members: Sequence[str | Mapping[str, Any]]) -> list[Member]:
    """Return the members of a vote, each given as a name of `MODELS` or as ``{name, id, params}``.

    Raises
    ------
    ConfigError
        If one is neither, or no model.
    """
    found = []
    for member in members:
        given: Any = {"name": member} if isinstance(member, str) else member
        if not _is_member(given):
            raise ParameterError(
                "members",
                "a member of a vote is the name of a model, or {name: …, id: …, params: …}. "
                f"Got {member!r}. Correct it.",
            )
        try:
            spec = models.get_model(given["name"])
        except UnknownNameError as error:
            raise ParameterError(
                "members", f"{error} A member is a model, or the `id:` of another row of `models:`."
            ) from None
        found.append(Member(given.get("id") or spec.name, spec, given.get("params", {})))
    return found


def _is_member(given: Any) -> bool:
    """Return whether something has the form of a member; whether its model exists is another question."""
    if not isinstance(given, Mapping) or set(given) - set(KEYS) or "name" not in given:
        return False
    return all(isinstance(value, KEYS[key]) for key, value in given.items())


class SoftVote(ClassifierMixin, BaseEstimator):
    """Average the probabilities of other models, as scikit-learn's `VotingClassifier` does with ``voting="soft"``.

    Each member is the whole pipeline of its row, with its own scaling, and is told who speaks where it asks for that,
    which `VotingClassifier` would not do.

    Parameters
    ----------
    members : sequence of str or mapping
        Names of `MODELS`, or ``{name, id, params}``.
    weights : mapping of str to float, optional
        Weights of members by their `id`, else name; 1 for those that are left out.
    shape : tuple of int
        (t, c) where a row of X is frames over time; see `emobench.models.build`.
    random_state : int, optional

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
    estimators_ : list of Pipeline
        The fitted members, in order.
    weights_ : list of float
        Theirs.
    """

    _parameter_constraints: ClassVar = {"members": [tuple, list], "weights": [dict, None]}

    def __init__(
        self,
        members: Sequence[str | Mapping[str, Any]] = MEMBERS,
        *,
        weights: Mapping[str, float] | None = None,
        shape: tuple[int, ...] = (),
        random_state: int | None = None,
    ) -> None:
        self.members = members
        self.weights = weights
        self.shape = shape
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fit every member.

        Parameters
        ----------
        X : array-like of shape (n_utterances, n_features)
        y : array-like of shape (n_utterances,)
        groups : array-like of shape (n_utterances,), optional
            Speaker of each utterance.

        Raises
        ------
        ConfigError
            If the members cannot vote together; see `check_members`.
        """
        check_members({"members": self.members, "weights": self.weights})
        X, y = validate_data(self, X, y, dtype=np.float32)
        self.classes_ = np.unique(y)
        members = list_members(self.members)
        self.weights_ = [(self.weights or {}).get(member.label, 1.0) for member in members]
        self.estimators_ = []
        for member, seed in zip(members, _seeds(self.random_state, len(members)), strict=True):
            pipeline = models.build(member.spec, member.params, shape=tuple(self.shape), random_state=seed)
            own = models.with_groups(member.spec, member.params, groups)
            self.estimators_.append(pipeline.fit(X, y, **own))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the weighted mean of the members' probabilities: shape (n_utterances, n_classes)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return np.average([member.predict_proba(X) for member in self.estimators_], axis=0, weights=self.weights_)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each row."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(axis=1)]


def check_members(settings: Mapping[str, Any]) -> None:
    """Refuse members that cannot vote together, and weights that are none: `ConfigError`."""
    members = list_members(settings["members"])
    if len(members) < 2:
        raise ParameterError(
            "members", f"a vote must have at least 2 members. Got {len(members)}. Add one to `members`."
        )
    labels = [member.label for member in members]
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise ParameterError(
            "members", f"members of a vote must have different names. {twice[0]!r} stands twice. Give one an `id`."
        )
    for member in members:
        if member.spec.members:
            raise ParameterError(
                "members", f"{member.label!r} is a vote itself, so it cannot be a member. Name its members instead."
            )
        try:
            models.check_parameters(member.spec, member.params)
        except ConfigError as error:
            raise ParameterError("members", f"{member.label!r}: {error}") from None
        if not hasattr(models.build(member.spec, member.params), "predict_proba"):
            raise ParameterError(
                "members",
                f"member {member.label!r} has no probabilities, so it cannot vote. "
                "Add `calibrate: true` to its `params:`.",
            )
    if not _common_forms(members):
        raise ParameterError(
            "members",
            f"members of a vote must see the same features. {labels[0]!r} and others share none. Leave some out.",
        )
    _check_weights(settings["weights"] or {}, labels)


def _check_weights(weights: Mapping[str, Any], labels: Sequence[str]) -> None:
    for label, weight in weights.items():
        if label not in labels:
            near = did_you_mean(label, list(labels))
            raise ParameterError("weights", f"no member is called {label!r}.{near} Members: {', '.join(labels)}.")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
            raise ParameterError(
                "weights", f"the weight of {label!r} must be a number of at least 0. Got {weight!r}. Correct it."
            )
    if not sum(weights.get(label, 1) for label in labels) > 0:
        raise ParameterError("weights", "one weight at least must be above 0. All are 0. Raise one.")


def _common_forms(members: Sequence[Member]) -> tuple[str, ...]:
    """Return which features all members can see."""
    forms = [models.takes(member.spec, member.params) for member in members]
    return tuple(form for form in forms[0] if all(form in others for others in forms))


def _seeds(random_state: Any, n: int) -> Iterator[int | None]:
    """Yield a seed for each member, so that two of one kind are not the same."""
    if random_state is None:
        yield from [None] * n
    else:
        yield from (int(np.random.SeedSequence([random_state, number]).generate_state(1)[0]) for number in range(n))


FAMILY = Family(
    check=check_members,
    identity=lambda settings: {},
    space=lambda settings: {f"weights.{m.label}": Float(0.05, 1.0) for m in list_members(settings["members"])},
    takes=lambda settings: _common_forms(list_members(settings["members"])),
    members=lambda settings: [(member.spec, member.params) for member in list_members(settings["members"])],
)
