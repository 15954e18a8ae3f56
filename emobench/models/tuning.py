"""Tuning: an Optuna study inside an estimator, over folds of its training part whose speakers are disjoint.

A study can be killed at any moment and continued: the sampler of trial *t* is seeded from the estimator's seed and *t*,
where *t* counts the trials that ended by themselves, so that an interrupted trial leaves no trace in the result.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from emobench import metrics
from emobench.errors import StorageError
from emobench.files import hold
from emobench.models import (
    Choice,
    Float,
    Int,
    ModelSpec,
    build,
    build_scaler,
    get_model,
    is_calibration,
    search_space,
    settings,
    with_groups,
)
from emobench.protocols import Fold
from emobench.protocols.folds import inner_folds

if TYPE_CHECKING:
    import optuna

STUDY = "tuning"
LOCK_TIMEOUT_S = 3600
INTERRUPTED = "interrupted"


def _has_probabilities(tuned: TunedClassifier) -> bool:
    return hasattr(build(get_model(tuned.model), tuned.params), "predict_proba")


class TunedClassifier(ClassifierMixin, BaseEstimator):
    """A model of the registry with parameters that an Optuna study has chosen.

    Trial 0 is the model as it is; further trials are sampled by TPE, and one whose score after an inner fold is below
    the median of the earlier trials is pruned. The best is refitted on everything.

    Parameters
    ----------
    model : str
        Row of `MODELS`.
    params : mapping, optional
        Parameters that stand in a config; those that are also in the row's search space are the start of the search.
    n_trials : int
        Trials that end by themselves, pruned ones included.
    inner_splits : int
        Speaker-grouped folds of the training part.
    shape : tuple of int
        (t, c) where a row of X is frames over time; see `emobench.models.build`.
    random_state : int, optional
    study : path, optional
        SQLite file that the study is kept in and continued from; in memory if not given.

    Attributes
    ----------
    best_params_ : dict
        What the best trial has set, defaults left out; empty if the model as it is was the best.
    best_score_ : float
        UAR of the best trial on the pooled inner folds; NaN if no trial was completed.
    estimator_ : Pipeline
        Refitted on everything that `fit` was given.
    trials_ : list of dict
        Every trial that ended by itself: number, state, value, params, n_folds, seconds, error.
    folds_ : list of Fold
        Inner folds, as positions in what `fit` was given.
    tuning_s_ : float
        Seconds of the search, without the refit.
    tuning_failed_ : bool
        Whether no trial was completed, so that the defaults were taken.
    """

    def __init__(
        self,
        model: str = "svm",
        params: Mapping[str, Any] | None = None,
        *,
        n_trials: int = 8,
        inner_splits: int = 3,
        shape: tuple[int, ...] = (),
        random_state: int | None = None,
        study: str | Path | None = None,
    ):
        self.model = model
        self.params = params
        self.n_trials = n_trials
        self.inner_splits = inner_splits
        self.shape = shape
        self.random_state = random_state
        self.study = study

    def fit(self, X: Any, y: Any, *, groups: Any = None, strata: Any = None) -> TunedClassifier:
        """Search, then refit the best parameters.

        Parameters
        ----------
        X : array of shape (n_utterances, n_features)
        y : array of shape (n_utterances,)
        groups : array of shape (n_utterances,)
            Speaker of each utterance; inner folds keep them disjoint. Without them every utterance is its own speaker.
        strata : array of shape (n_utterances,), optional
            Sex of each speaker, which the inner folds balance.

        Raises
        ------
        SplitError
            If there are fewer speakers than inner folds.
        StorageError
            If the study's file is damaged.
        """
        X, y = validate_data(self, X, y, dtype=np.float32)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must hold at least 2 classes. Got {len(self.classes_)} class. Add utterances of others."
            )
        groups = np.arange(len(y)).astype(str) if groups is None else np.asarray(groups).astype(str)
        strata = np.full(len(y), "") if strata is None else np.asarray(strata).astype(str)
        spec, started = get_model(self.model), time.perf_counter()
        self.folds_ = inner_folds(groups, strata, self.inner_splits)
        parts = _parts(spec, X, codes, groups, self.folds_, self.shape)
        self.trials_ = self._search(spec, parts, len(self.classes_))
        completed = [trial for trial in self.trials_ if trial["state"] == "complete"]
        best = max(completed, key=lambda trial: (trial["value"], -trial["trial"]), default=None)
        self.tuning_failed_ = best is None
        self.best_params_ = best["params"] if best else {}
        self.best_score_ = best["value"] if best else math.nan
        self.tuning_s_ = time.perf_counter() - started
        params = {**(self.params or {}), **self.best_params_}
        self.estimator_ = build(spec, params, shape=self.shape, random_state=self.random_state)
        self.estimator_.fit(X, y, **with_groups(spec, params, groups))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the label of each row of X."""
        check_is_fitted(self)
        return self.estimator_.predict(validate_data(self, X, dtype=np.float32, reset=False))

    def _search(self, spec: ModelSpec, parts: Sequence[_Part], n_classes: int) -> list[dict[str, Any]]:
        space = search_space(spec, self.params or {})
        if not space or self.n_trials < 1:
            return []
        with _quiet_optuna(), _damage_reported(self.study), _held(self.study):
            study = _open_study(self.study)
            while len(trials := _ended(study)) < self.n_trials:
                self._run_trial(study, spec, parts, n_classes, len(trials))
        return [_row(number, trial, space) for number, trial in enumerate(trials)]

    def _run_trial(
        self, study: optuna.Study, spec: ModelSpec, parts: Sequence[_Part], n_classes: int, number: int
    ) -> None:
        """Ask for, score and tell one trial; a failure of the model is a failed trial."""
        import optuna

        # Calibration is no matter of the search: six fits for an answer that hardly differs.
        given = {name: value for name, value in (self.params or {}).items() if not is_calibration(spec, name)}
        seed = trial_seed(self.random_state, number)
        n_random = min(10, max(3, self.n_trials // 4))
        sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=n_random)
        space = search_space(spec, given)
        if number == 0:  # the model as it is; a default outside the space (gamma: scale) is left to the model
            known = _representable(space, settings(spec, given))
            space = {name: domain for name, domain in space.items() if name in known}
            sampler = optuna.samplers.PartialFixedSampler(known, sampler)
        study.sampler = sampler
        trial = study.ask()
        suggested = {name: _suggest(trial, name, domain) for name, domain in space.items()}
        params = {} if number == 0 else suggested
        started, scores, y_pred = time.perf_counter(), [], []
        try:
            for index, part in enumerate(parts):
                model = build(spec, {**given, **params}, shape=self.shape, random_state=seed).named_steps["model"]
                own = {"groups": part.groups} if spec.takes_groups else {}
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a trial that does not converge is judged by its score
                    y_pred.append(np.asarray(model.fit(part.X_train, part.y_train, **own).predict(part.X_test)))
                scores.append(metrics.present_uar(metrics.confusion(part.y_test, y_pred[-1], n_classes)))
                trial.report(float(np.mean(scores)), index)
                trial.set_user_attr("n_folds", index + 1)
                if index < len(parts) - 1 and trial.should_prune():
                    trial.set_user_attr("seconds", time.perf_counter() - started)
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    return
            y_true = np.concatenate([part.y_test for part in parts])
            value = float(metrics.uar(metrics.confusion(y_true, np.concatenate(y_pred), n_classes)))
        except Exception as error:  # a model may fail in any way; the search goes on
            trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:300])
            value = math.nan
        trial.set_user_attr("seconds", time.perf_counter() - started)
        if math.isfinite(value):
            study.tell(trial, value)
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities in the order of `classes_`: shape (n, n_classes). Only where the model has them."""
        check_is_fitted(self)
        return self.estimator_.predict_proba(validate_data(self, X, dtype=np.float32, reset=False))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "estimator_")


def trial_seed(random_state: int | None, number: int) -> int:
    """Return the seed of trial `number`, counted over trials that ended by themselves."""
    return int(np.random.SeedSequence([random_state or 0, number]).generate_state(1)[0])


@dataclass(frozen=True)
class _Part:
    """One inner fold, scaled once for all trials where the model is scaled."""

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    groups: np.ndarray


def _parts(
    spec: ModelSpec, X: np.ndarray, y: np.ndarray, groups: np.ndarray, folds: Sequence[Fold], shape: tuple[int, ...]
) -> list[_Part]:
    parts = []
    for fold in folds:
        X_train, X_test = X[fold.train], X[fold.test]
        if spec.is_scaled:
            scale = build_scaler(shape).fit(X_train)
            X_train, X_test = scale.transform(X_train), scale.transform(X_test)
        parts.append(_Part(X_train, y[fold.train], X_test, y[fold.test], groups[fold.train]))
    return parts


def _representable(space: Mapping[str, Float | Int | Choice], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that lie in a search space, as Optuna has them."""
    found = {}
    for name, domain in space.items():
        name_, _, member = name.partition(".")
        value = (values.get(name_) or {}).get(member) if member else values.get(name)
        if isinstance(domain, Choice):
            if value in domain.values:
                found[name] = _as_choice(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and domain.low <= value <= domain.high:
            found[name] = value
    return found


def _suggest(trial: optuna.Trial, name: str, domain: Float | Int | Choice) -> Any:
    if isinstance(domain, Float):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    if isinstance(domain, Int):
        return trial.suggest_int(name, domain.low, domain.high, step=domain.step)
    return _from_choice(trial.suggest_categorical(name, [_as_choice(value) for value in domain.values]), domain)


def _as_choice(value: Any) -> Any:
    """Return a value as Optuna can store it: a tuple becomes JSON."""
    return json.dumps(value) if isinstance(value, tuple | list) else value


def _from_choice(stored: Any, domain: Choice) -> Any:
    return next(value for value in domain.values if _as_choice(value) == stored)


# --- the study ------------------------------------------------------------------------------------------------------


def _open_study(path: str | Path | None) -> optuna.Study:
    """Open or continue a study; what a kill left running is marked and counts for nothing."""
    import optuna

    storage = None
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    # WilcoxonPruner never prunes with three folds.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0)
    study = optuna.create_study(
        storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True, pruner=pruner
    )
    unfinished = (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING)
    for trial in study.get_trials(states=unfinished):
        study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that ended by themselves, in order."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and INTERRUPTED not in t.user_attrs]


def _row(number: int, trial: optuna.trial.FrozenTrial, space: Mapping[str, Float | Int | Choice]) -> dict[str, Any]:
    params = {
        name: _from_choice(value, domain) if isinstance(domain := space[name], Choice) else value
        for name, value in trial.params.items()
    }
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
    return {
        "trial": number,
        "state": state,
        "value": trial.value if state == "complete" else None,
        "params": params if number else {},
        "n_folds": trial.user_attrs.get("n_folds", 0),
        "seconds": trial.user_attrs.get("seconds"),
        "error": trial.user_attrs.get("error", ""),
    }


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(level)


@contextlib.contextmanager
def _held(path: str | Path | None) -> Iterator[None]:
    """Hold a study against a second writer: the worker of a killed run may live on for a moment."""
    if path is None:
        yield
        return
    refusal = f"{path}: another worker has held this study for an hour. End it, and run the same command again."
    with hold(Path(path).with_name(f".{Path(path).name}.lock"), refusal=refusal, timeout_s=LOCK_TIMEOUT_S):
        yield


def _refusal(error: BaseException | None) -> str:
    """Return what the system refused under SQLite; an empty string where it is the study that is damaged."""
    while error is not None:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
            return str(error)
        if isinstance(error, OSError) and error.errno:
            return error.strerror or str(error)
        error = error.__cause__ or error.__context__
    return ""


@contextlib.contextmanager
def _damage_reported(path: str | Path | None) -> Iterator[None]:
    """Turn what SQLAlchemy and Optuna say of a study's file into what to do about it."""
    import optuna
    import sqlalchemy.exc

    damage = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError, KeyError, OSError)
    try:
        yield
    except damage as error:
        if path is None or isinstance(error, StorageError):
            raise
        if refusal := _refusal(error):
            raise StorageError(
                f"{path}: must be writable. The system says: {refusal}. Make room or mend the disk, and run the same "
                "command again; what is finished is kept, trials too."
            ) from error
        text = str(error).splitlines()[0][:200]
        raise StorageError(
            f"{path}: must be a study that this emobench can continue. It cannot be used: {text} "
            "Run the same command with --retune to tune again; finished jobs are kept."
        ) from error
