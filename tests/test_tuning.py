"""Tuning listens to no test speaker, can be killed at any trial, and never turns a failure into a figure."""

import contextlib
import math
import sqlite3

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import recall_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.utils.estimator_checks import parametrize_with_checks

from emobench import models
from emobench.errors import SplitError, StorageError
from emobench.models import MODELS, Choice, Int, ModelSpec, check_parameters, tuning
from emobench.models.tuning import TunedClassifier
from emobench.protocols.folds import inner_folds

N_SPEAKERS = 12


def speech(seed=0, n_features=6, signal=0.8):
    """Return X, y, speakers: three emotions, separable within limits, speakers with an offset of their own."""
    rng = np.random.default_rng(seed)
    y = np.tile(np.repeat([0, 1, 2], 4), N_SPEAKERS)
    speakers = np.repeat([f"{s:02d}" for s in range(N_SPEAKERS)], 12)
    offsets = rng.normal(size=(N_SPEAKERS, n_features))[np.repeat(np.arange(N_SPEAKERS), 12)]
    X = rng.normal(size=(len(y), n_features)) + offsets + signal * rng.normal(size=(3, n_features))[y]
    return X.astype(np.float32), y, speakers


X, Y, SPEAKERS = speech()


def table(estimator):
    """Return what must not depend on kills: everything of the trials but their seconds."""
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in estimator.trials_]


def tuned(**changes):
    return TunedClassifier(**{"model": "svm", "n_trials": 6, "random_state": 3, **changes})


# --- search spaces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [spec for spec in MODELS.values() if spec.space], ids=lambda spec: spec.name)
def test_search_space_names_parameters_of_the_model_that_it_accepts(spec):
    for name, domain in spec.space.items():
        values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
        for value in values:
            check_parameters(spec, {name: value})


@pytest.mark.parametrize("spec", [spec for spec in MODELS.values() if spec.space], ids=lambda spec: spec.name)
def test_search_starts_from_the_defaults(spec):
    """All of them lie in the space, or are left to the model (gamma: scale)."""
    known = tuning._representable(spec.space, models.settings(spec, {}))
    assert set(spec.space) - set(known) <= {"gamma"}


# --- the search -----------------------------------------------------------------------------------------------------


def test_tuned_classifier_beats_or_equals_its_defaults_on_the_inner_folds():
    estimator = tuned().fit(X, Y, groups=SPEAKERS)
    assert estimator.trials_[0]["params"] == {}
    assert estimator.best_score_ == max(trial["value"] for trial in estimator.trials_ if trial["state"] == "complete")
    assert estimator.best_score_ >= estimator.trials_[0]["value"]
    assert len(estimator.trials_) == 6


def test_first_trial_scores_what_scikit_learn_scores_with_the_defaults():
    """The oracle of the inner loop: the same pipeline and folds in `cross_val_predict`."""
    estimator = tuned(n_trials=1).fit(X, Y, groups=SPEAKERS)
    folds = [(fold.train, fold.test) for fold in inner_folds(SPEAKERS, [""] * len(Y), 3)]
    expected = cross_val_predict(models.build(models.get_model("svm")), X, Y, cv=folds)
    assert estimator.best_score_ == pytest.approx(recall_score(Y, expected, average="macro"))


def test_refit_uses_the_best_parameters_on_everything():
    estimator = tuned().fit(X, Y, groups=SPEAKERS)
    by_hand = models.build(models.get_model("svm"), estimator.best_params_, random_state=3).fit(X, Y)
    assert (estimator.predict(X) == by_hand.predict(X)).all()


@pytest.mark.parametrize("model", ["svm", "xgboost"])
def test_same_seed_gives_the_same_study_and_another_seed_another(model):
    params = {"n_estimators": 100} if model == "xgboost" else {}
    one, two, three = (
        tuned(model=model, params=params, n_trials=4, random_state=seed).fit(X, Y, groups=SPEAKERS)
        for seed in (1, 1, 2)
    )
    assert table(one) == table(two)
    assert table(one) != table(three)


def test_inner_folds_keep_speakers_apart_and_balance_sexes():
    sexes = np.where([int(speaker) % 2 == 0 for speaker in SPEAKERS], "female", "male")
    estimator = tuned(n_trials=1).fit(X, Y, groups=SPEAKERS, strata=sexes)
    for fold in estimator.folds_:
        assert not set(SPEAKERS[fold.train]) & set(SPEAKERS[fold.test])
        assert set(sexes[fold.test]) == {"female", "male"}


def test_fewer_speakers_than_inner_folds_are_refused():
    with pytest.raises(SplitError, match=r"number of speakers \(12\). Got 13"):
        tuned(inner_splits=13).fit(X, Y, groups=SPEAKERS)


def test_string_labels_and_probabilities():
    labels = np.array(["calm", "happy", "sad"])[Y]
    estimator = tuned(model="xgboost", params={"n_estimators": 100}, n_trials=2).fit(X, labels, groups=SPEAKERS)
    assert set(estimator.predict(X)) <= set(labels)
    assert estimator.predict_proba(X).shape == (len(Y), 3)
    assert not hasattr(tuned(), "predict_proba")


def test_model_without_a_space_is_only_fitted():
    estimator = tuned(model="dummy").fit(X, Y, groups=SPEAKERS)
    assert estimator.trials_ == []
    assert math.isnan(estimator.best_score_)


def test_canary_noise_is_chance_on_outer_folds_however_much_is_tuned():
    """What tuning gains on its inner folds by luck must be gone on speakers it has not heard."""
    rng = np.random.default_rng(0)
    y = np.tile(np.repeat(np.arange(5), 4), 24)
    speakers = np.repeat([f"{s:02d}" for s in range(24)], 20)
    noise = rng.normal(size=(len(y), 10)).astype(np.float32)
    y_pred = np.empty_like(y)
    inner = []
    for train, test in GroupKFold(4).split(noise, y, speakers):
        estimator = tuned(n_trials=10).fit(noise[train], y[train], groups=speakers[train])
        y_pred[test] = estimator.predict(noise[test])
        inner.append(estimator.best_score_)
    outer = recall_score(y, y_pred, average="macro")
    assert outer == pytest.approx(0.2, abs=0.06)
    assert np.mean(inner) > 0.2


def test_pruned_trials_are_rows_without_a_value():
    estimator = tuned(n_trials=20).fit(X, Y, groups=SPEAKERS)
    pruned = [trial for trial in estimator.trials_ if trial["state"] == "pruned"]
    assert pruned
    assert all(trial["value"] is None and 1 <= trial["n_folds"] < 3 for trial in pruned)


# --- trials that fail -----------------------------------------------------------------------------------------------


@pytest.fixture
def fragile(monkeypatch):
    """A model of which some parameters cannot be fitted: more neighbours than utterances."""
    space = {"n_neighbors": Choice((1, 3, 10_000))}
    row = ModelSpec("knn", "k nearest", "sklearn.neighbors:KNeighborsClassifier", space=space)
    monkeypatch.setitem(MODELS, "knn", row)


def test_failed_trial_is_a_row_with_its_error(fragile):
    estimator = tuned(model="knn", n_trials=12).fit(X, Y, groups=SPEAKERS)
    failed = [trial for trial in estimator.trials_ if trial["state"] == "failed"]
    assert failed
    assert all("n_neighbors" in trial["error"] for trial in failed)
    assert estimator.best_params_.get("n_neighbors") != 10_000
    assert not estimator.tuning_failed_


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_trial_without_a_finite_score_is_a_failure(monkeypatch, value):
    monkeypatch.setattr(tuning.metrics, "uar", lambda *args: value)
    estimator = tuned(n_trials=2).fit(X, Y, groups=SPEAKERS)
    assert [trial["state"] for trial in estimator.trials_] == ["failed", "failed"]
    assert estimator.tuning_failed_
    assert estimator.best_params_ == {}
    assert set(estimator.predict(X)) <= {0, 1, 2}


def test_diverging_network_is_a_failed_trial():
    estimator = tuned(model="cnn", params={"learning_rate": 1e20, "epochs": 2}, n_trials=1)
    with pytest.raises(ValueError, match="diverged"):  # the defaults of this entry diverge in the refit too
        estimator.fit(X, Y, groups=SPEAKERS)
    assert [trial["state"] for trial in estimator.trials_] == ["failed"]
    assert "DivergedError" in estimator.trials_[0]["error"]


# --- kept on disk ---------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing in between may catch it."""


def test_study_continues_from_its_file_without_a_new_trial(tmp_path):
    first = tuned(study=tmp_path / "study.db").fit(X, Y, groups=SPEAKERS)
    again = tuned(study=tmp_path / "study.db")
    again._run_trial = lambda *args: pytest.fail("a trial was run again")
    assert table(again.fit(X, Y, groups=SPEAKERS)) == table(first)
    assert table(tuned().fit(X, Y, groups=SPEAKERS)) == table(first)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 17), min_size=1, max_size=4))
def test_study_killed_in_any_fold_continues_as_if_nothing_had_happened(tmp_path_factory, moments):
    """An interrupted trial leaves the count, the samples and the table as they were."""
    path = tmp_path_factory.mktemp("study") / "study.db"
    expected = table(tuned().fit(X, Y, groups=SPEAKERS))
    report = optuna.Trial.report
    for moment in moments:
        calls = iter(range(100))

        def die(trial, value, step, calls=calls, moment=moment):
            if next(calls) == moment:
                raise Killed
            report(trial, value, step)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optuna.Trial, "report", die)
            with contextlib.suppress(Killed):
                tuned(study=path).fit(X, Y, groups=SPEAKERS)
    assert table(tuned(study=path).fit(X, Y, groups=SPEAKERS)) == expected


@pytest.mark.parametrize("damage", ["zeros", "text", "cut"])
def test_damaged_study_names_the_file_and_the_way_out(tmp_path, damage):
    path = tmp_path / "study.db"
    tuned(n_trials=2, study=path).fit(X, Y, groups=SPEAKERS)
    content = path.read_bytes()
    broken = {
        "zeros": content[:5000] + bytes(4000) + content[9000:],
        "text": b"not a database, though it was one\n" * 300,
        "cut": content[: len(content) // 3],
    }
    path.write_bytes(broken[damage])
    with pytest.raises(StorageError, match=r"study.db: must be a study .* --retune") as caught:
        tuned(n_trials=4, study=path).fit(X, Y, groups=SPEAKERS)
    assert caught.value.exit_code == 5


def test_study_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "study.db"
    tuned(n_trials=1, study=path).fit(X, Y, groups=SPEAKERS)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    with pytest.raises(StorageError, match="--retune"):
        tuned(n_trials=2, study=path).fit(X, Y, groups=SPEAKERS)


# --- the contract ---------------------------------------------------------------------------------------------------


def test_clone_keeps_parameters_and_forgets_the_fit():
    estimator = tuned(n_trials=1).fit(X, Y, groups=SPEAKERS)
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    assert not hasattr(copy, "trials_")


@parametrize_with_checks(
    [TunedClassifier("svm", n_trials=1, inner_splits=2, random_state=0)],
    expected_failed_checks=lambda _: {},
)
def test_tuned_classifier_is_a_scikit_learn_classifier(estimator, check):
    check(estimator)


def test_int_domain_respects_its_step():
    study = optuna.create_study()
    drawn = {tuning._suggest(study.ask(), "n", Int(20, 80, step=20)) for _ in range(30)}
    assert drawn <= {20, 40, 60, 80}
