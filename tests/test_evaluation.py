"""The one cross-validation loop: equal to scikit-learn's, blind to speakers it must not hear, deaf to failures."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import recall_score
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import LabelEncoder

from emobench import models
from emobench.features import FeatureSpec, FeatureTable, get_features
from emobench.protocols import PROTOCOLS, Fold, Labels
from emobench.protocols.certificate import fold_fingerprint, rows_fingerprint
from emobench.protocols.folds import inner_folds, make_folds
from emobench.running.evaluation import FoldResult, Job, TuningPlan, derive_seed, evaluate, fit_everything

EMOTIONS = ("angry", "calm", "fearful", "happy", "sad")
HONEST = [name for name, row in PROTOCOLS.items() if not row.waives and name != "file"]


def design(n_speakers=24, n_repetitions=8):
    """Return labels of a balanced corpus with RAVDESS's 24 actors."""
    rows = [(f"{s:02d}", e, r) for s in range(1, n_speakers + 1) for e in EMOTIONS for r in range(n_repetitions)]
    return Labels(
        ids=tuple(f"ravdess/{s}/{e}-{r}" for s, e, r in rows),
        speakers=tuple(s for s, _, _ in rows),
        emotions=tuple(e for _, e, _ in rows),
        sexes=tuple("female" if int(s) % 2 == 0 else "male" for s, _, _ in rows),
        audio=tuple(f"{s}{e}{r}" for s, e, r in rows),
        corpus="ravdess",
    )


def job_of(fold, model="svm", random_state=0, **params):
    return Job("key", "ravdess", "x", model, model, params, "p", (), 0, fold.index, random_state, fold.train, fold.test)


def rows_of(X, y, labels):
    classes = tuple(sorted(set(labels.emotions)))
    return FeatureTable(X, y, classes, labels.ids, labels.speakers, labels.sexes, get_features("mfcc40"), "key")


def pooled_uar(X, labels, protocol, *, model="svm", emotions=None, **params):
    """Return the UAR of a model on the pooled predictions of a protocol's folds."""
    y = LabelEncoder().fit_transform(emotions if emotions is not None else labels.emotions)
    y_pred = np.full(len(y), -1)
    for fold in make_folds(protocol, labels):
        result = evaluate(rows_of(X, y, labels), job_of(fold, model, **params))
        assert result.error == ""
        y_pred[fold.test] = result.y_pred
    return recall_score(y, y_pred, labels=range(5), average="macro")


def speaker_watermark(labels, rng):
    """Return features that give the emotion away to whoever knows the speaker, and nothing to anybody else.

    A one-hot code of (speaker, emotion), the emotion under a permutation private to the speaker.
    """
    speakers = sorted(set(labels.speakers))
    private = {speaker: rng.permutation(5) for speaker in speakers}
    X = np.zeros((len(labels.ids), 5 * len(speakers)), np.float32)
    for row, (speaker, emotion) in enumerate(zip(labels.speakers, labels.emotions, strict=True)):
        X[row, 5 * speakers.index(speaker) + private[speaker][EMOTIONS.index(emotion)]] = 1
    return X + 0.01 * rng.standard_normal(X.shape).astype(np.float32)


@pytest.mark.parametrize("protocol", HONEST)
def test_canary_speaker_watermark_scores_chance_on_unheard_speakers(protocol):
    labels, rng = design(), np.random.default_rng(0)
    assert pooled_uar(speaker_watermark(labels, rng), labels, protocol) == pytest.approx(0.2, abs=0.06)


def test_canary_speaker_watermark_scores_near_one_on_a_random_split():
    labels, rng = design(), np.random.default_rng(0)
    assert pooled_uar(speaker_watermark(labels, rng), labels, "random-kfold") > 0.97


@pytest.mark.parametrize("protocol", [*HONEST, "random-kfold"])
def test_canary_permuted_labels_score_chance(protocol):
    labels, rng = design(), np.random.default_rng(1)
    X = rng.standard_normal((len(labels.ids), 10)).astype(np.float32)
    emotions = rng.permutation(labels.emotions)
    assert pooled_uar(X, labels, protocol, emotions=emotions) == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize("model", ["svm", "xgboost", "mlp"])
def test_evaluate_equals_scikit_learn_on_the_same_folds(model):
    """The oracle of our loop: the same pipeline, seeds and folds in `cross_val_predict`."""
    labels, rng = design(n_speakers=6, n_repetitions=3), np.random.default_rng(2)
    y = LabelEncoder().fit_transform(labels.emotions)
    X = (rng.standard_normal((len(y), 8)) + y[:, None] * 0.5).astype(np.float32)
    params = {"xgboost": {"n_estimators": 10}, "mlp": {"hidden_layer_sizes": [8], "max_iter": 30}}.get(model, {})
    folds = make_folds("group-kfold", labels, options={"n_splits": 3})
    expected = cross_val_predict(
        models.build(models.get_model(model), params, random_state=5),
        X,
        y,
        cv=[(fold.train, fold.test) for fold in folds],
    )
    for fold in folds:
        result = evaluate(rows_of(X, y, labels), job_of(fold, model, random_state=5, **params))
        assert result.y_pred == expected[fold.test].tolist()


def fold_of(labels):
    return make_folds("group-kfold", labels, options={"n_splits": 3})[0]


def test_evaluate_reports_the_rows_that_reached_fit():
    labels = design(n_speakers=6, n_repetitions=1)
    fold = fold_of(labels)
    X = np.zeros((len(labels.ids), 3), np.float32)
    result = evaluate(rows_of(X, np.arange(len(X)) % 5, labels), job_of(fold, "dummy"))
    assert result.fitted_on == rows_fingerprint(labels.ids, fold.train)
    assert result.fitted_on != rows_fingerprint(labels.ids, fold.test)


def test_evaluate_gives_probabilities_over_all_declared_classes():
    """A class that no training utterance has keeps its column, with zero."""
    labels = design(n_speakers=6, n_repetitions=2)
    fold = fold_of(labels)
    y = LabelEncoder().fit_transform(labels.emotions)
    y[fold.train] = np.where(y[fold.train] == 2, 1, y[fold.train])
    X = np.random.default_rng(0).standard_normal((len(y), 4)).astype(np.float32)
    for model in ("dummy", "xgboost"):
        proba = np.array(evaluate(rows_of(X, y, labels), job_of(fold, model)).proba)
        assert proba.shape == (len(fold.test), 5)
        assert (proba[:, 2] == 0).all()
        assert np.allclose(proba.sum(axis=1), 1, atol=1e-6)


def test_evaluate_has_no_probabilities_of_an_svm():
    labels = design(n_speakers=6, n_repetitions=1)
    X = np.random.default_rng(0).standard_normal((len(labels.ids), 4)).astype(np.float32)
    assert evaluate(rows_of(X, np.arange(len(X)) % 5, labels), job_of(fold_of(labels))).proba is None


@pytest.mark.parametrize(
    "failure, said",
    [(ValueError("no luck"), "ValueError: no luck"), (SystemExit(3), "SystemExit: 3"), (MemoryError(), "MemoryError")],
    ids=["exception", "exit", "memory"],
)
def test_evaluate_turns_a_failure_into_an_error(monkeypatch, capfd, failure, said):
    class Failing:
        def fit(self, X, y):
            print("noise of a model")
            raise failure

    monkeypatch.setattr(models, "build", lambda *args, **kwargs: Failing())
    labels = design(n_speakers=6, n_repetitions=1)
    result = evaluate(rows_of(np.zeros((30, 2), np.float32), np.arange(30) % 5, labels), job_of(fold_of(labels)))
    assert (result.error, result.y_pred, result.converged) == (said, [], None)
    assert result.log.startswith("noise of a model\nTraceback (most recent call last):\n")
    assert result.log.endswith(f"{said}\n")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "model, params, converged",
    [("mlp", {"max_iter": 2}, False), ("svm", {}, True), ("svm", {"max_iter": 1}, False), ("dummy", {}, None)],
)
def test_evaluate_says_whether_an_iterative_model_has_converged(model, params, converged):
    """X23; what it said is in the log."""
    labels = design(n_speakers=6, n_repetitions=1)
    X = np.random.default_rng(0).standard_normal((len(labels.ids), 4)).astype(np.float32)
    rows = rows_of(X, np.arange(len(X)) % 5, labels)
    for _ in range(2):  # a warning is told again by the next job of a worker
        result = evaluate(rows, job_of(fold_of(labels), model, **params))
        assert result.converged is converged
        assert ("ConvergenceWarning" in result.log) == (converged is False)
    assert FoldResult.from_json(result.to_json()).converged is converged


@pytest.mark.parametrize(
    "answer, says",
    [
        (np.full(10, 7), "predict returned 7, which is none of the classes it was fitted on"),
        (np.zeros(3, int), "predict returned an array of shape (3,) for 10 utterances"),
        (np.array([0.0, np.nan] * 5), "predict returned NaN for 5 of 10 utterances"),
        (np.array([0, None, np.nan] * 3 + [1], object), "predict returned NaN for 3 of 10 utterances"),
        (np.array(["angry"] * 10), "predict returned 'angry', which is none of the classes"),
    ],
    ids=["unknown code", "too few", "NaN", "NaN among objects", "text"],
)
def test_evaluate_refuses_predictions_that_are_no_codes(monkeypatch, answer, says):
    class Wrong:
        def fit(self, X, y):
            return self

        def predict(self, X):
            return answer

    monkeypatch.setattr(models, "build", lambda *args, **kwargs: Wrong())
    labels = design(n_speakers=6, n_repetitions=1)
    result = evaluate(rows_of(np.zeros((30, 2), np.float32), np.arange(30) % 5, labels), job_of(fold_of(labels)))
    assert says in result.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_evaluate_returns_whatever_a_model_raises(monkeypatch, error):
    class Wrong:
        def fit(self, X, y):
            raise error("two\nlines \x1b[31m")

    monkeypatch.setattr(models, "build", lambda *args, **kwargs: Wrong())
    labels = design(n_speakers=6, n_repetitions=1)
    table = rows_of(np.zeros((30, 2), np.float32), np.arange(30) % 5, labels)
    assert evaluate(table, job_of(fold_of(labels))).error == rf"{error.__name__}: two\nlines \x1b[31m"
    assert fit_everything(table, job_of(fold_of(labels))).error == rf"{error.__name__}: two\nlines \x1b[31m"


def test_fold_result_survives_json_exactly():
    result = FoldResult("k", [1, 0], [[0.1, 0.9], [1 / 3, 2 / 3]], "abc", 0.5, 0.25)
    assert FoldResult.from_json(result.to_json()) == result


@pytest.mark.parametrize("position", range(0, 300, 7))
def test_fold_result_refuses_damage(position):
    text = FoldResult("k", [1, 0, 2, 1, 0, 2] * 10, None, "abc", 0.5, 0.25).to_json().encode()
    position %= len(text)
    damaged = text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :]
    try:
        read = FoldResult.from_json(damaged)
    except ValueError:
        return
    assert json.loads(damaged)["result"] == json.loads(text)["result"]
    assert read == FoldResult.from_json(text)


def test_derive_seed_depends_on_every_part_and_on_nothing_else():
    seeds = {derive_seed(*parts) for parts in [(0, "a"), (1, "a"), (0, "b"), ("0", "a"), (0, {"a": 1})]}
    assert len(seeds) == 5
    assert derive_seed(0, {"a": 1, "b": 2}) == derive_seed(0, {"b": 2, "a": 1})


# --- frames over time -----------------------------------------------------------------------------------------------

FRAMES = FeatureSpec("mini", "Three frames of two channels", "x:y", "x:y", n_features=6, shape=(3, 2))


class Recorder(ClassifierMixin, BaseEstimator):
    """Remembers what it was fitted on, and says of each row how probable code 1 is: its first number."""

    def fit(self, X, y, groups):
        self.X_, self.y_, self.groups_ = X, y, groups
        self.classes_ = np.array([0, 1])
        Recorder.last = self
        return self

    def predict_proba(self, X):
        return np.column_stack([1 - X[:, 0], X[:, 0]])

    def predict(self, X):
        return self.predict_proba(X).argmax(axis=1)


@pytest.fixture
def recorder(monkeypatch):
    row = models.ModelSpec(
        "recorder", "x", Recorder, is_scaled=False, takes=("frames",), takes_groups=True, converter="x:y"
    )
    monkeypatch.setitem(models.MODELS, "recorder", row)


def frames_of(*recordings):
    """Return a table of recordings, given the first number of each of their rows; they speak in turn."""
    rows = [number for numbers in recordings for number in numbers]
    ends = np.cumsum([len(numbers) for numbers in recordings])
    X = np.zeros((len(rows), 6), np.float32)
    X[:, 0] = rows
    names = tuple(f"u{number}" for number in range(len(recordings)))
    return FeatureTable(
        X[::-1].copy(),  # the rows of a table may be in any order of the recordings
        np.arange(len(recordings)) % 2,
        ("happy", "sad"),
        names,
        tuple(f"speaker of {name}" for name in names),
        ("female",) * len(names),
        FRAMES,
        "key",
        spans=np.column_stack([len(rows) - ends, len(rows) - ends + np.diff(ends, prepend=0)]),
    )


def frames_job(train, test):
    return job_of(Fold(0, 0, np.array(train), np.array(test)), "recorder")


def test_every_window_is_trained_on_under_its_recording(recorder):
    table = frames_of([0.1], [0.2, 0.3, 0.4], [0.5, 0.6], [0.7])
    result = evaluate(table, frames_job([1, 3], [0, 2]))
    assert result.error == ""
    fitted = Recorder.last
    np.testing.assert_allclose(sorted(fitted.X_[:, 0]), [0.2, 0.3, 0.4, 0.7])
    assert fitted.y_.tolist() == [1, 1, 1, 1]
    assert fitted.groups_.tolist() == ["speaker of u1"] * 3 + ["speaker of u3"]
    assert result.fitted_on == rows_fingerprint(table.ids, np.array([1, 3]))


def test_windows_of_a_tested_recording_get_one_answer_from_their_mean(recorder):
    table = frames_of([0.1], [0.0, 0.4, 1.0], [0.0, 0.9, 0.9], [0.7])
    result = evaluate(table, frames_job([0, 3], [1, 2]))
    assert result.y_pred == [0, 1]
    np.testing.assert_allclose(result.proba, [[1.6 / 3, 1.4 / 3], [1.2 / 3, 1.8 / 3]], rtol=1e-6)


def test_inner_folds_of_windows_are_certified_as_those_of_their_recordings(monkeypatch):
    row = models.ModelSpec(
        "dummy-frames",
        "x",
        "sklearn.dummy:DummyClassifier",
        takes=("frames",),
        space={"strategy": models.Choice(("prior", "uniform"))},
    )
    monkeypatch.setitem(models.MODELS, "dummy-frames", row)
    recordings = [[0.1] * (1 + number % 3) for number in range(12)]
    table = frames_of(*recordings)
    fold = Fold(0, 0, np.arange(8), np.arange(8, 12))
    job = replace(job_of(fold, "dummy-frames"), tuning=TuningPlan(n_trials=2, inner_splits=2, study=None))
    result = evaluate(table, job)
    assert result.error == ""
    expected = inner_folds(table.speakers[:8], table.sexes[:8], 2)
    assert result.tuning["inner_folds"] == fold_fingerprint(expected, table.ids[:8])
