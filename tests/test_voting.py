"""Votes, calibration and weights of classes: models made of models."""

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.utils import compute_sample_weight
from threadpoolctl import threadpool_limits

from emobench import metrics
from emobench.bundles.export import converter_of, export, to_onnx
from emobench.bundles.session import Session
from emobench.bundles.votes import mean_of
from emobench.config.yaml import parse_config
from emobench.errors import ConfigError, NoBundleError
from emobench.models import ModelSpec, build, cost, describe, get_model, memory_bytes, takes, with_groups
from emobench.models.calibration import SpeakerCalibratedClassifier
from emobench.models.tuning import TunedClassifier
from emobench.models.voting import SoftVote
from emobench.protocols.folds import inner_folds
from emobench.registry import offering
from emobench.running.experiment import list_entries
from emobench.testing.models import N_FEATURES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = {"xgboost": {"n_estimators": 10}, "mlp": {"hidden_layer_sizes": [8]}, "keras": {"epochs": 2}}


def noisy(n_classes=4, missing=(), n_speakers=8, n_clips=24):
    """Return (X, codes, speakers): classes that overlap, and speakers who all sound a little different."""
    rng = np.random.default_rng(0)
    codes = np.tile(np.arange(n_classes), n_speakers * n_clips // n_classes)
    speakers = np.repeat(np.arange(n_speakers), n_clips)
    centres, voices = rng.normal(size=(n_classes, N_FEATURES)), rng.normal(size=(n_speakers, N_FEATURES))
    X = centres[codes] + voices[speakers] + rng.normal(scale=1.5, size=(len(codes), N_FEATURES))
    kept = ~np.isin(codes, missing)
    return X[kept].astype(np.float32), codes[kept], speakers[kept]


X, Y, SPEAKERS = noisy()


def fit(name, params, data=(X, Y, SPEAKERS)):
    spec, (X, y, speakers) = get_model(name), data
    return build(spec, params, random_state=0).fit(X, y, **with_groups(spec, params, speakers))


# --- votes ----------------------------------------------------------------------------------------------------------


def test_vote_is_that_of_scikit_learn():
    params = {"members": ["logistic", {"name": "knn", "params": {"n_neighbors": 5}}], "weights": {"knn": 3}}
    vote = fit("vote", params)
    members = [("a", build(get_model("logistic"))), ("b", build(get_model("knn"), {"n_neighbors": 5}))]
    oracle = VotingClassifier(members, voting="soft", weights=[1, 3]).fit(X, Y)
    np.testing.assert_allclose(vote.predict_proba(X), oracle.predict_proba(X))
    np.testing.assert_array_equal(vote.predict(X), oracle.predict(X))


def test_members_of_one_kind_have_seeds_of_their_own():
    mlp = {"name": "mlp", "params": {"hidden_layer_sizes": [4], "max_iter": 5}}
    one, other = fit("vote", {"members": [{**mlp, "id": "a"}, {**mlp, "id": "b"}]})[-1].estimators_
    assert not np.array_equal(one.predict_proba(X), other.predict_proba(X))


def test_members_are_told_who_speaks():
    early = {"name": "keras", "params": {"epochs": 2, "early_stopping": True, "options": {"filters": 4}}}
    assert fit("vote", {"members": [early, "logistic"]})[-1].estimators_[0][-1].validation_loss_curve_


REFUSED_VOTES = {
    "no probabilities": ({"members": ["svm", "logistic"]}, "'svm' has no probabilities.*calibrate: true"),
    "alone": ({"members": ["logistic"]}, "at least 2 members. Got 1"),
    "twice": ({"members": ["logistic", "logistic"]}, "'logistic' stands twice. Give one an `id`"),
    "unknown": ({"members": ["logistic", "knnn"]}, "Did you mean 'knn'.*the `id:` of another row"),
    "wrong parameter": ({"members": ["knn", {"name": "logistic", "params": {"C": -1}}]}, "Got -1"),
    "number": ({"members": ["knn", 3]}, "a member of a vote is the name of a model.* Got 3"),
    "key": ({"members": ["knn", {"name": "logistic", "C": 1}]}, "a member of a vote is the name of a model"),
    "vote": ({"members": ["knn", "vote"]}, "'vote' is a vote itself"),
    "no list": ({"members": "logistic"}, "members"),
    "weights in a list": ({"weights": [1, 2]}, "weights"),
    "weight of nobody": ({"weights": {"svn": 1}}, "no member is called 'svn'. Did you mean 'svm'"),
    "negative weight": ({"weights": {"svm": -1}}, "at least 0. Got -1"),
    "weight that is none": ({"weights": {"svm": "much"}}, "at least 0. Got 'much'"),
    "no weight": ({"weights": {"svm": 0, "logistic": 0}}, "one weight at least must be above 0"),
}


@pytest.mark.parametrize("params, message", REFUSED_VOTES.values(), ids=REFUSED_VOTES)
def test_vote_is_refused(params, message):
    with pytest.raises(ConfigError, match=message):
        build(get_model("vote"), params)


def test_members_must_see_the_same_features():
    row = ModelSpec(name="films", title="", estimator="sklearn.linear_model:LogisticRegression", takes=("frames",))
    with offering(row), pytest.raises(ConfigError, match="must see the same features"):
        build(get_model("vote"), {"members": ["films", "logistic"]})


def test_vote_sees_what_all_its_members_see():
    network = {"name": "keras", "id": "net"}
    assert takes(get_model("vote"), {"members": [network, "logistic"]}) == ("vector",)


CONFIG = """
corpora: [ravdess]
models:
  - {name: svm, id: svm-c1, params: {C: 1, calibrate: true}}
  - logistic
  - {name: vote, id: best, params: {members: [svm-c1, logistic, knn], weights: {svm-c1: 2}}}
tuning: {n_trials: 2}
"""


def test_config_names_members_by_the_ids_of_other_rows():
    config = parse_config(CONFIG)
    assert config.models[2].params["members"] == [
        {"name": "svm", "params": {"C": 1, "calibrate": True}, "id": "svm-c1"},
        {"name": "logistic"},
        "knn",
    ]
    assert [entry.name for entry in list_entries(config)][-2:] == ["best", "best-tuned"]


def test_config_with_a_member_without_probabilities_is_refused_at_its_line():
    with pytest.raises(
        ConfigError, match=r"models\[2\]\.params\.members \(line 6\): member 'svm-c1' has no probabilities"
    ):
        parse_config(CONFIG.replace(", calibrate: true", ""))


def test_vote_is_identified_by_its_members():
    entry = parse_config(CONFIG).models[2]
    spec = get_model("vote")
    [svm, *_] = describe(spec, entry.params)["members"]
    assert svm["params"]["C"] == 1
    other = parse_config(CONFIG.replace("C: 1", "C: 2")).models[2]
    assert describe(spec, other.params) != describe(spec, entry.params)


def test_vote_costs_what_its_members_cost():
    vote, cnn = get_model("vote"), get_model("cnn")
    params = {"members": ["cnn", {"name": "mlp", "params": {"calibrate": True}}]}
    assert cost(vote, params) == pytest.approx(vote.cost + cnn.cost + 6 * get_model("mlp").cost)
    assert memory_bytes(vote, params) == cnn.memory_bytes


def test_tuning_weighs_members():
    tuned = TunedClassifier("vote", {"members": ["logistic", "knn"]}, n_trials=4, inner_splits=2, random_state=0)
    tuned.fit(X, Y, groups=SPEAKERS)
    assert {key for trial in tuned.trials_ for key in trial["params"]} == {"weights.logistic", "weights.knn"}
    assert [trial["state"] for trial in tuned.trials_].count("failed") == 0


# --- calibration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sigmoid", "temperature"])
def test_calibration_is_that_of_scikit_learn_on_folds_of_speakers(method):
    found = fit("svm", {"calibrate": method})
    scaled = found[0].transform(X)
    folds = inner_folds(SPEAKERS.astype(str), [""] * len(Y), 5)
    assert all(not set(SPEAKERS[fold.train]) & set(SPEAKERS[fold.test]) for fold in folds)
    oracle = CalibratedClassifierCV(
        build(get_model("svm"), random_state=0)[-1],
        method=method,
        cv=[(fold.train, fold.test) for fold in folds],
        ensemble=False,
    ).fit(scaled, Y)
    np.testing.assert_array_equal(found.predict_proba(X), oracle.predict_proba(scaled))


def test_calibration_on_speakers_is_less_sure_than_on_utterances():
    """Utterances of speakers that it knows are easy, so a calibration that shares speakers is too sure of new ones."""
    train = SPEAKERS < 6
    spec, params = get_model("knn"), {"n_neighbors": 3, "calibrate": True}
    by_speaker, by_utterance = (
        build(spec, params).fit(X[train], Y[train], **with_groups(spec, params, groups))
        for groups in (SPEAKERS[train], None)
    )
    ece = [_ece(model, X[~train], Y[~train]) for model in (by_speaker, by_utterance)]
    assert ece[0] < ece[1]


def _ece(model, X, y):
    return metrics.ece(metrics.overconfidence(y, model.predict_proba(X)).sum(axis=0), len(y))


def test_temperature_leaves_answers_as_they_are():
    plain, cooled = fit("logistic", {}), fit("logistic", {"calibrate": "temperature"})
    np.testing.assert_array_equal(plain.predict(X), cooled.predict(X))
    assert not np.allclose(plain.predict_proba(X), cooled.predict_proba(X))


def test_class_of_one_speaker_cannot_be_calibrated():
    y = np.where(SPEAKERS == 0, 9, Y)
    with pytest.raises(ValueError, match="class 9 is spoken in one of 5 parts of the speakers only"):
        SpeakerCalibratedClassifier(build(get_model("logistic"))[-1]).fit(X, y, groups=SPEAKERS)


@pytest.mark.parametrize("value", ["isotonic", 1, 0.5, None, [True]])
def test_calibration_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match="calibrate must be true, false, sigmoid or temperature"):
        build(get_model("svm"), {"calibrate": value})


def test_calibration_that_is_off_changes_nothing():
    spec = get_model("svm")
    assert describe(spec, {"calibrate": False}) == describe(spec, {})
    assert describe(spec, {"calibrate": True}) == describe(spec, {"calibrate": "sigmoid"}) != describe(spec, {})


def test_calibration_needs_scores():
    row = ModelSpec(name="mute", title="", estimator="sklearn.linear_model:Perceptron")
    assert hasattr(build(row, {"calibrate": True}), "predict_proba")
    row = ModelSpec(name="mute", title="", estimator="sklearn.ensemble:VotingClassifier", defaults={"estimators": []})
    with pytest.raises(ConfigError, match="nothing to calibrate"):
        build(row, {"calibrate": True})


def test_tuning_calibrates_what_it_chose():
    tuned = TunedClassifier("svm", {"calibrate": True}, n_trials=2, inner_splits=2, random_state=0)
    tuned.fit(X, Y, groups=SPEAKERS)
    assert isinstance(tuned.estimator_[-1], SpeakerCalibratedClassifier)
    assert tuned.predict_proba(X).shape == (len(X), 4)


def test_calibrated_network_is_told_who_speaks():
    params = {"epochs": 2, "early_stopping": True, "options": {"filters": 4}, "calibrate": True}
    assert fit("keras", params)[-1].estimator_.validation_loss_curve_


# --- weights of classes ---------------------------------------------------------------------------------------------

WEIGHTED = {
    "cnn": {"epochs": 3, "options": {"filters": 4}},
    "keras": {"epochs": 3, "options": {"filters": 4}},
    "logistic": {},
    "mlp": {"hidden_layer_sizes": [8], "max_iter": 20},
    "svm": {"C": 0.1},
    "xgboost": {"n_estimators": 10},
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_balanced_weights_find_more_of_a_rare_class(name):
    rare = (Y != 0) | (np.arange(len(Y)) % 16 == 0)
    data = X[rare], Y[rare], SPEAKERS[rare]
    plain, balanced = (fit(name, {**WEIGHTED[name], **more}, data) for more in ({}, {"class_weight": "balanced"}))
    assert (balanced.predict(X) == 0).sum() > (plain.predict(X) == 0).sum()


def test_balanced_perceptron_is_scikit_learns_with_these_weights():
    from sklearn.neural_network import MLPClassifier

    ours = fit("mlp", {"hidden_layer_sizes": [8], "max_iter": 20, "class_weight": "balanced"}, (X[8:], Y[8:], None))
    weights = compute_sample_weight("balanced", Y[8:])
    oracle = MLPClassifier((8,), max_iter=20, random_state=0).fit(ours[0].transform(X[8:]), Y[8:], weights)
    np.testing.assert_array_equal(ours.predict_proba(X), oracle.predict_proba(ours[0].transform(X)))


@pytest.mark.parametrize("name", ["mlp", "xgboost", "svm", "logistic"])
def test_weights_that_are_none_are_refused(name):
    with pytest.raises(ConfigError, match="class_weight.* Got 'fair'"):
        build(get_model(name), {"class_weight": "fair"})


# --- as ONNX --------------------------------------------------------------------------------------------------------

CASES = {"four": (4, ()), "two": (2, ()), "one-missing": (4, (2,))}
COMPOSED = {
    f"{name} {method}": (name, {**QUICK.get(name, {}), "calibrate": method})
    for name in ("svm", "logistic", "mlp", "knn", "xgboost")
    for method in ("sigmoid", "temperature")
} | {
    "vote": ("vote", {"weights": {"svm": 3}}),
    "vote of all": (
        "vote",
        {"members": ["knn", "dummy", *({"name": name, "params": QUICK[name]} for name in ("mlp", "xgboost"))]},
    ),
    "calibrated vote": ("vote", {"calibrate": True}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", COMPOSED)
def test_composed_model_is_one_graph_that_answers_alike(name, case):
    model, params = COMPOSED[name]
    n_classes, missing = CASES[case]
    data = noisy(n_classes, missing)
    fitted = fit(model, params, data)
    converter = converter_of(get_model(model), params)
    onnx, _ = export(fitted, data[0], n_classes=n_classes, converter=converter)
    _, proba = Session(onnx, n_classes).predict(data[0])
    np.testing.assert_allclose(proba[:, fitted.classes_], fitted.predict_proba(data[0]), atol=1e-5)


@pytest.mark.parametrize("name", ["svm sigmoid", "logistic temperature", "vote"])
def test_equal_fits_of_composed_models_are_equal_bytes(name):
    """With one thread, as workers have; sums over more threads differ in their last digits, and so do temperatures."""
    model, params = COMPOSED[name]
    converter = converter_of(get_model(model), params)
    data = noisy(4, (2,))
    with threadpool_limits(1):
        first, second = (to_onnx(fit(model, params, data), N_FEATURES, 4, converter) for _ in range(2))
    assert first == second


def test_vote_with_a_network_is_one_graph():
    params = {"members": [{"name": "keras", "params": {"epochs": 2, "options": {"filters": 4}}}, "logistic"]}
    fitted = fit("vote", params)
    _, parity = export(fitted, X, n_classes=4, converter=converter_of(get_model("vote"), params))
    assert parity.max_difference < 1e-5


def test_graphs_of_different_operator_sets_make_no_vote():
    from onnx import helper

    graphs = [to_graph(fit("logistic", {})) for _ in range(2)]
    del graphs[0].opset_import[:]
    graphs[0].opset_import.extend([helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)])
    with pytest.raises(ValueError, match="versions"):
        mean_of(graphs, [0.5, 0.5])


def to_graph(model):
    from emobench.bundles.converters import from_sklearn
    from emobench.bundles.export import pipeline_graph

    return pipeline_graph(model, N_FEATURES, from_sklearn)


def test_member_that_cannot_be_exported_leaves_the_vote_without_a_bundle():
    row = ModelSpec(name="bayes", title="", estimator="sklearn.naive_bayes:BernoulliNB", converter="onnx:nothing")
    params = {"members": ["bayes", "logistic"]}
    with offering(row):
        fitted = fit("vote", params)
        with pytest.raises(NoBundleError, match="SoftVote cannot be exported"):
            export(fitted, X, n_classes=4, converter=converter_of(get_model("vote"), params))


def test_vote_is_a_scikit_learn_classifier():
    from sklearn.base import clone

    vote = SoftVote(["logistic", "knn"], weights={"knn": 2.0})
    assert clone(vote).fit(X, Y).predict(X).shape == Y.shape
