"""Fit, time and score one model on one fold: the only place where a model meets data.

A job sees the rows it trains on and the rows it is tested on. It reports the fingerprint of the utterances that reached
`fit`, and the run compares it with the leakage certificate; a tuned job reports its inner folds as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from emobench import models
from emobench.errors import NoBundleError, StorageError, on_one_line
from emobench.execution.output import Log, captured
from emobench.features import FeatureTable
from emobench.features.rows import pool_answers, rows_of
from emobench.files import PART
from emobench.prediction.probe import time_calls
from emobench.protocols.certificate import fold_fingerprint, rows_fingerprint

LOG_CHARACTERS = 4000
NATIVE_S = 0.1  # for which the fitted model's own `predict` is timed


@dataclass(frozen=True)
class TuningPlan:
    """How an entry is tuned in one job.

    Attributes
    ----------
    study : str or None
        File that the job's Optuna study is kept in; None to tune in memory.
    """

    n_trials: int
    inner_splits: int
    study: str | None


@dataclass(frozen=True)
class StressPlan:
    """What a job's model is asked after the fit.

    Attributes
    ----------
    keys : tuple of str
        Of each change of the recordings; see `emobench.stresses.Change.key`.
    path : str
        File of the rows of their features, float32; that at `spans_path` has the first row and the one behind the
        last of each utterance, of shape (n_changes, n_utterances, 2): none where there are no features.
    """

    keys: tuple[str, ...]
    path: str = ""

    @property
    def spans_path(self) -> str:
        return f"{self.path.removesuffix(PART)}-spans{PART}"

    def load(self, n_features: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of shape (n_rows, n_features), mapped into memory, and the spans of the utterances."""
        has_rows = os.path.getsize(self.path) > 0  # an empty file cannot be mapped
        rows = np.memmap(self.path, np.float32, "r") if has_rows else np.empty(0, np.float32)
        return rows.reshape(-1, n_features), np.load(self.spans_path)


@dataclass(frozen=True)
class Job:
    """One (entry, protocol, repeat, fold), or the fit of an entry on everything (no `test`).

    Attributes
    ----------
    key : str
        Hash of everything that its result depends on; never a position.
    params : dict
        What the config sets on the model's row.
    random_state : int
        Derived from the run's seed and the job's identity.
    train, test : int arrays
        Rows of the feature table.
    tuning : TuningPlan or None
        None for an entry that is taken as it is.
    n_permutations : int
        How often each block of features is shuffled after the fit; 0 where its importance is not asked for.
    stress : StressPlan or None
        None where nothing is asked about stressed recordings.
    """

    key: str
    corpus: str
    features: str
    entry: str
    model: str
    params: Mapping[str, Any]
    protocol: str
    waives: tuple[str, ...]
    repeat: int
    fold: int
    random_state: int
    train: np.ndarray
    test: np.ndarray
    tuning: TuningPlan | None = None
    n_permutations: int = 0
    stress: StressPlan | None = None

    def is_answered_by(self, result: FoldResult) -> bool:
        """Return whether a finished result of this key holds all that is asked for."""
        n_shuffled = (result.importance or {}).get("n_permutations")
        has_importance = not self.n_permutations or n_shuffled == self.n_permutations
        return has_importance and (self.stress is None or set(self.stress.keys) <= set(result.stressed or {}))

    @property
    def title(self) -> str:
        """Name for people: entry, features, protocol, fold."""
        where = f"{self.protocol} fold {self.fold}" if len(self.test) else "everything"
        return f"{self.entry} · {self.corpus} · {self.features} · {where}" + (
            f" · repeat {self.repeat}" * (self.repeat > 0)
        )


@dataclass(frozen=True)
class FoldResult:
    """What a job found.

    Attributes
    ----------
    y_pred : list of int
        Codes of the declared classes, in the order of the job's test rows.
    proba : list of list of float, or None
        Shape (n_test, n_classes) over all declared classes; None for a model without probabilities.
    fitted_on : str
        Fingerprint of the utterances that reached `fit`.
    fit_s, predict_s : float
        Wall-clock seconds.
    error : str
        Empty where all went well; a result with an error is never kept as one.
    log : str
        What the model printed or warned of.
    is_damaged_storage : bool
        Whether the error is one of the machine's storage, which ends the run with exit code 5.
    tuning : dict or None
        What the study found: `trials`, `best_params`, `inner_score`, `tuning_s`, `inner_folds` (fingerprint), `failed`.
    converged : bool or None
        Whether an iterative model said nothing of not having converged; None for a model that would not say.
    importance : dict or None
        `n_permutations`, and `n_right`: for each block of features, how often each test row was answered rightly after
        the block was shuffled.
    stressed : dict of str to list of int, or None
        For each change of the recordings, the codes of the answers to the test rows; -1 where a recording could not be
        changed.
    """

    key: str
    y_pred: list[int] = field(default_factory=list)
    proba: list[list[float]] | None = None
    fitted_on: str = ""
    fit_s: float = float("nan")
    predict_s: float = float("nan")
    error: str = ""
    log: str = ""
    is_damaged_storage: bool = False
    tuning: dict[str, Any] | None = None
    converged: bool | None = None
    importance: dict[str, Any] | None = None
    stressed: dict[str, list[int]] | None = None

    def to_json(self) -> str:
        """Return the result as JSON with the hash of its content."""
        content = json.dumps(vars(self), sort_keys=True)
        return json.dumps({"sha256": hashlib.sha256(content.encode()).hexdigest(), "result": content})

    @classmethod
    def from_json(cls, text: str | bytes) -> FoldResult:
        """Read what `to_json` wrote; raise ValueError if it is not the same content."""
        try:
            outer = json.loads(text)
            content = outer["result"]
            if hashlib.sha256(content.encode()).hexdigest() != outer["sha256"]:
                raise ValueError("the content is not what was written")
            return cls(**json.loads(content))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a result: {error}") from None


def derive_seed(*identity: Any) -> int:
    """Return a seed in [0, 2³²) from any JSON-like identity by hashing."""
    text = json.dumps(identity, sort_keys=True, default=list)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Fitted:
    """A model fitted on everything, as ONNX; or why there is none.

    Attributes
    ----------
    onnx : bytes
        Empty where the fit failed, or the model cannot be exported.
    parity : dict
        How its answers were compared with the fitted model's; see `Parity`.
    no_bundle : str
        Why the model cannot be exported.
    native_ms : float
        Median time of the fitted model's own `predict`, for one row of features.
    params : dict
        Of the model's row, the config's and tuning's together.
    error : str
        Why the fit failed.
    """

    onnx: bytes = b""
    parity: dict[str, Any] = field(default_factory=dict)
    no_bundle: str = ""
    native_ms: float = float("nan")
    params: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    is_damaged_storage: bool = False


def evaluate(table: FeatureTable, job: Job) -> FoldResult:
    """Fit a job's model on its training rows and predict its test rows; never raises."""
    with _quiet() as (log, warned):
        try:
            estimator = _estimator(job, table.spec.shape)
            started = time.perf_counter()
            _fit(estimator, table, job)
            fit_s = time.perf_counter() - started
            tuning = _tuning_of(estimator, table, job)
            rows, owners = table.rows_of(job.test)
            X = table.X[rows]
            started = time.perf_counter()
            y_pred = np.asarray(estimator.predict(X))
            predict_s = time.perf_counter() - started
            proba = _probabilities(estimator, X, len(table.classes))
            _check_predictions(y_pred, proba, len(X), len(table.classes))
            y_pred, proba = pool_answers(y_pred, proba, owners)
            importance = _importance(estimator, table, job) if job.n_permutations else None
            stressed = _stressed(estimator, table, job) if job.stress else None
        except BaseException as error:  # a model may fail in any way, and Ctrl-C does not reach a worker
            return FoldResult(
                job.key,
                error=_describe(error),
                log=f"{log.getvalue()}{traceback.format_exc()}"[-LOG_CHARACTERS:],
                is_damaged_storage=isinstance(error, StorageError),
            )
        return FoldResult(
            job.key,
            y_pred=[int(code) for code in y_pred],
            proba=None if proba is None else proba.tolist(),
            fitted_on=rows_fingerprint(table.ids, job.train),
            fit_s=fit_s - (tuning["tuning_s"] if tuning else 0.0),
            predict_s=predict_s,
            log=log.getvalue()[-LOG_CHARACTERS:],
            tuning=tuning,
            converged=_has_converged(estimator, warned),
            importance=importance,
            stressed=stressed,
        )


def fit_everything(table: FeatureTable, job: Job) -> Fitted:
    """Fit a job's model on its training rows, tuned on them where the job says so, and export it; never raises."""
    with _quiet():
        try:
            estimator = _estimator(job, table.spec.shape)
            _fit(estimator, table, job)
            tuning = _tuning_of(estimator, table, job)
        except BaseException as error:  # as in `evaluate`
            return Fitted(error=_describe(error), is_damaged_storage=isinstance(error, StorageError))
        params = dict(job.params)
        if tuning is not None:
            estimator, params = estimator.estimator_, {**params, **tuning["best_params"]}
        try:
            onnx, parity = _exported(estimator, table, job)
            return Fitted(onnx, parity, native_ms=_native_ms(estimator, table.X[:1]), params=params)
        except BaseException as error:
            reason = str(error) if isinstance(error, NoBundleError) else f"no bundle: {_describe(error)}"
            return Fitted(no_bundle=reason, params=params)


def _exported(estimator: Any, table: FeatureTable, job: Job) -> tuple[bytes, dict[str, Any]]:
    from emobench.bundles.export import converter_of, export

    converter = converter_of(models.get_model(job.model), job.params)
    X = table.X[table.rows_of(job.train)[0]]
    onnx, parity = export(estimator, X, n_classes=len(table.classes), converter=converter)
    return onnx, asdict(parity)


def _native_ms(estimator: Any, X: np.ndarray) -> float:
    """Return how long the model's own `predict` takes, as its users call it, beside whatever the other workers do."""
    return float(np.median(time_calls(lambda: estimator.predict(X), NATIVE_S))) / 1e6


def _estimator(job: Job, shape: tuple[int, ...]) -> Any:
    if job.tuning is None:
        return models.build(models.get_model(job.model), job.params, shape=shape, random_state=job.random_state)
    from emobench.models.tuning import TunedClassifier

    return TunedClassifier(
        job.model,
        dict(job.params),
        n_trials=job.tuning.n_trials,
        inner_splits=job.tuning.inner_splits,
        shape=shape,
        random_state=job.random_state,
        study=job.tuning.study,
    )


def _fit(estimator: Any, table: FeatureTable, job: Job) -> None:
    """Fit on the training rows and on nothing else; a model that wants to know is told who speaks in them."""
    rows, owners = table.rows_of(job.train)
    utterances = job.train[owners]
    X, y, speakers = table.X[rows], table.y[utterances], np.array(table.speakers)[utterances]
    if job.tuning is None:
        estimator.fit(X, y, **models.with_groups(models.get_model(job.model), job.params, speakers))
    else:
        estimator.fit(X, y, groups=speakers, strata=np.array(table.sexes)[utterances])


def _tuning_of(estimator: Any, table: FeatureTable, job: Job) -> dict[str, Any] | None:
    if job.tuning is None:
        return None
    return {
        "trials": estimator.trials_,
        "best_params": estimator.best_params_,
        "inner_score": estimator.best_score_,
        "tuning_s": estimator.tuning_s_,
        "inner_folds": _inner_fingerprint(estimator, table, job),
        "failed": estimator.tuning_failed_,
    }


def _inner_fingerprint(estimator: Any, table: FeatureTable, job: Job) -> str:
    """Return the fingerprint of a study's inner folds, which hold all rows of an utterance."""
    owners = table.rows_of(job.train)[1]
    folds = [replace(fold, test=np.unique(owners[fold.test])) for fold in estimator.folds_]
    return fold_fingerprint(folds, [table.ids[row] for row in job.train])


def _importance(estimator: Any, table: FeatureTable, job: Job) -> dict[str, Any]:
    """Shuffle each block of features among the test rows, and count how often each row is still answered rightly.

    Features with names are vectors, so each recording has one row.
    """
    X, y = table.X[job.test], table.y[job.test]
    n_right = {}
    for number, (block, columns) in enumerate(table.spec.columns().items()):
        rng = np.random.default_rng([job.random_state, number])
        right = np.zeros(len(y), dtype=int)
        for _ in range(job.n_permutations):
            shuffled = X.copy()
            shuffled[:, columns] = X[rng.permutation(len(X))][:, columns]
            right += np.asarray(estimator.predict(shuffled)) == y
        n_right[block] = right.tolist()
    return {"n_permutations": job.n_permutations, "n_right": n_right}


def _stressed(estimator: Any, table: FeatureTable, job: Job) -> dict[str, list[int]]:
    """Return the answers to stressed versions of the test recordings."""
    assert job.stress is not None
    X, spans = job.stress.load(table.spec.n_features)
    answers = {}
    for key, of_change in zip(job.stress.keys, spans, strict=True):
        codes = np.full(len(job.test), -1)
        rows, owners = rows_of(of_change, job.test)
        if len(rows):
            stressed = np.array(X[rows])
            y_pred = np.asarray(estimator.predict(stressed))
            proba = _probabilities(estimator, stressed, len(table.classes))
            _check_predictions(y_pred, proba, len(rows), len(table.classes))
            codes[np.unique(owners)] = pool_answers(y_pred, proba, owners)[0]
        answers[key] = [int(code) for code in codes]
    return answers


def _probabilities(estimator: Any, X: np.ndarray, n_classes: int) -> np.ndarray | None:
    """Return probabilities over all declared classes; a class that was not trained on has zero."""
    if not hasattr(estimator, "predict_proba"):
        return None
    proba = np.zeros((len(X), n_classes))
    proba[:, estimator.classes_] = estimator.predict_proba(X)
    return proba


def _check_predictions(y_pred: np.ndarray, proba: np.ndarray | None, n_test: int, n_classes: int) -> None:
    if y_pred.shape != (n_test,):
        raise ValueError(f"predict returned an array of shape {y_pred.shape} for {n_test} utterances.")
    if n_nan := np.count_nonzero(y_pred != y_pred):
        raise ValueError(f"predict returned NaN for {n_nan} of {n_test} utterances.")
    if unknown := sorted(set(y_pred.tolist()) - set(range(n_classes)), key=repr):
        raise ValueError(f"predict returned {unknown[0]!r}, which is none of the classes it was fitted on.")
    if proba is not None and (n_bad := np.count_nonzero(~np.isfinite(proba).all(axis=1))):
        raise ValueError(f"predict_proba returned NaN or infinity for {n_bad} of {n_test} utterances.")


def _has_converged(estimator: Any, warned: set[type[Warning]]) -> bool | None:
    from sklearn.exceptions import ConvergenceWarning

    pipeline = getattr(estimator, "estimator_", estimator)
    is_iterative = hasattr(pipeline[-1], "n_iter_")
    return not any(issubclass(category, ConvergenceWarning) for category in warned) if is_iterative else None


@contextlib.contextmanager
def _quiet() -> Iterator[tuple[Log, set[type[Warning]]]]:
    """Keep what a model prints and warns of out of the terminal; yields the text and the kinds of warnings."""
    warned = set[type[Warning]]()

    def note(message: Any, category: type[Warning], *where: Any, **_: Any) -> None:
        warned.add(category)
        log.write(warnings.formatwarning(message, category, *where[:2]))

    with captured() as log, warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = note
        yield log, warned


def _describe(error: BaseException) -> str:
    return on_one_line(f"{type(error).__name__}: {error}".strip().rstrip(":"))[:500]
