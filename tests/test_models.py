"""The contract of a model, held by every row of `MODELS` and by every plug-in."""

import importlib.metadata
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_validate

from emobench.errors import ConfigError, UnknownNameError
from emobench.models import (
    MODELS,
    ModelSpec,
    build,
    check_parameters,
    get_model,
    missing_packages,
    parameters,
    settings,
)
from emobench.registry import resolve

ROOT = Path(__file__).parents[1]
QUICK = {
    "cnn": {"epochs": 40, "options": {"filters": 16}},
    "keras": {"epochs": 40, "options": {"filters": 16}},
    "mlp": {"hidden_layer_sizes": [16]},
    "xgboost": {"n_estimators": 15},
}
LABELS = np.array(["angry", "calm", "happy", "sad"])
N_FEATURES = 20


def make_blobs(n_speakers=6, n_clips=20, seed=0):
    """Return (X, codes, speakers) of four classes that a straight line separates."""
    rng = np.random.default_rng(seed)
    codes = np.tile(np.arange(len(LABELS)), n_speakers * n_clips // len(LABELS))
    centres = rng.normal(scale=5, size=(len(LABELS), N_FEATURES))
    X = (centres[codes] + rng.normal(size=(len(codes), N_FEATURES))).astype(np.float32)
    return X, codes, np.repeat(np.arange(n_speakers), n_clips)


X, CODES, SPEAKERS = make_blobs()
Y = LABELS[CODES]
UNHEARD = make_blobs(seed=0)[0][::7] + np.float32(0.1)


def make(spec, *, random_state=0):
    return build(spec, QUICK.get(spec.name), random_state=random_state)


def answers(estimator, X):
    """Return everything a fitted estimator says about X: labels, and probabilities where it has them."""
    proba = estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else np.empty(0)
    return estimator.predict(X), proba


def assert_same_answers(one, other, X=UNHEARD):
    for left, right in zip(answers(one, X), answers(other, X), strict=True):
        np.testing.assert_array_equal(left, right)


def check_labels_may_be_strings(spec):
    estimator = make(spec).fit(X, Y)
    assert estimator.classes_.tolist() == LABELS.tolist()
    assert estimator.predict(UNHEARD).shape == (len(UNHEARD),)
    assert set(estimator.predict(UNHEARD)) <= set(LABELS)


def check_names_of_labels_do_not_matter(spec):
    with_codes, with_names = make(spec).fit(X, CODES), make(spec).fit(X, Y)
    assert with_codes.classes_.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(LABELS[with_codes.predict(UNHEARD)], with_names.predict(UNHEARD))
    np.testing.assert_array_equal(answers(with_codes, UNHEARD)[1], answers(with_names, UNHEARD)[1])


def check_order_of_labels_does_not_matter(spec):
    reversed_codes = len(LABELS) - 1 - CODES
    predicted = make(spec).fit(X, reversed_codes).predict(X)
    np.testing.assert_array_equal(len(LABELS) - 1 - predicted, make(spec).fit(X, CODES).predict(X))


def check_classes_may_have_gaps(spec):
    kept = np.isin(CODES, [1, 3])
    estimator = make(spec).fit(X[kept], CODES[kept])
    assert estimator.classes_.tolist() == [1, 3]
    assert set(estimator.predict(UNHEARD)) <= {1, 3}
    assert answers(estimator, UNHEARD)[1].shape in {(len(UNHEARD), 2), (0,)}


def check_probabilities_are_probabilities(spec):
    estimator = make(spec).fit(X, Y)
    if not hasattr(estimator, "predict_proba"):
        return
    proba = estimator.predict_proba(UNHEARD)
    assert proba.shape == (len(UNHEARD), len(LABELS))
    assert (proba >= 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(estimator.classes_[proba.argmax(axis=1)], estimator.predict(UNHEARD))


def check_same_seed_gives_same_answers(spec):
    assert_same_answers(make(spec, random_state=3).fit(X, Y), make(spec, random_state=3).fit(X, Y))


def check_clone_is_unfitted_and_equal(spec):
    estimator = make(spec).fit(X, Y)
    copy = clone(estimator)
    assert not hasattr(copy[-1], "classes_")
    assert copy[-1].get_params() == estimator[-1].get_params()
    assert_same_answers(copy.fit(X, Y), estimator)


def check_parameters_round_trip(spec):
    params = make(spec)[-1].get_params()
    fresh = resolve(spec.estimator)().set_params(**params)
    assert fresh.get_params() == params


def check_pickle_keeps_answers(spec):
    """Workers return fitted models through pickle."""
    estimator = make(spec).fit(X, Y)
    assert_same_answers(pickle.loads(pickle.dumps(estimator)), estimator)


def check_data_may_be_read_only(spec):
    """loky hands large arrays to workers as read-only memory maps."""
    frozen = [array.copy() for array in (X, Y, UNHEARD)]
    for array in frozen:
        array.setflags(write=False)
    answers(make(spec).fit(frozen[0], frozen[1]), frozen[2])
    np.testing.assert_array_equal(frozen[0], X)


def check_one_clip_is_answered_as_in_a_batch(spec):
    estimator = make(spec).fit(X, Y)
    labels, proba = answers(estimator, UNHEARD)
    for row in range(3):
        label, row_proba = answers(estimator, UNHEARD[row : row + 1])
        assert label[0] == labels[row]
        np.testing.assert_allclose(row_proba, proba[row : row + 1], atol=1e-6)


def check_beats_chance(spec):
    train = SPEAKERS < 4
    accuracy = np.mean(make(spec).fit(X[train], Y[train]).predict(X[~train]) == Y[~train])
    assert accuracy > 0.9  # chance is 0.25


def check_refitting_forgets(spec):
    estimator = make(spec).fit(X[::-1] * 3, np.roll(Y, 7))
    assert_same_answers(estimator.fit(X, Y), make(spec).fit(X, Y))


def check_works_in_cross_validate(spec):
    scores = cross_validate(make(spec), X, Y, groups=SPEAKERS, cv=GroupKFold(2), error_score="raise")
    assert np.isfinite(scores["test_score"]).all()


def check_leaves_global_random_states(spec):
    before = random.getstate(), np.random.get_state()[1].tolist()
    answers(make(spec).fit(X, Y), UNHEARD)
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


def check_parameters_are_known(spec):
    assert "random_state" not in parameters(spec)
    assert set(spec.defaults) <= set(parameters(spec))
    check_parameters(spec, parameters(spec))
    with pytest.raises(ConfigError, match=f"Unknown parameter 'depht' of model {spec.name!r}.* Known parameters: "):
        check_parameters(spec, {"depht": 3})


CHECKS = [
    check for name, check in list(globals().items()) if name.startswith("check_") and check is not check_parameters
]

# (model, check) → why it need not hold.
EXCEPTIONS = {
    ("dummy", check_beats_chance): "it is chance",
    ("dummy", check_order_of_labels_does_not_matter): "all classes are equally frequent, and it says the first",
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", sorted(MODELS))
def test_model(name, check):
    if reason := EXCEPTIONS.get((name, check)):
        pytest.skip(reason)
    check(get_model(name))


def test_exceptions_are_exceptions():
    for (name, check), reason in EXCEPTIONS.items():
        with pytest.raises(AssertionError):
            check(get_model(name))
        assert reason


class EntryPoint:
    """What an installed plug-in looks like to `importlib.metadata`."""

    name = "lda"

    def load(self):
        return ModelSpec(
            name="lda",
            title="Linear discriminant analysis",
            estimator="sklearn.discriminant_analysis:LinearDiscriminantAnalysis",
            defaults={"solver": "lsqr", "shrinkage": "auto"},
        )


@pytest.fixture
def plugin(monkeypatch):
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: [EntryPoint()] if group == "emobench.models" else []
    )


def test_plug_in_of_ten_lines_keeps_the_contract(plugin):
    for check in CHECKS:
        check(get_model("lda"))


def test_row_added_to_the_table_is_found(monkeypatch):
    monkeypatch.setitem(MODELS, "lda", EntryPoint().load())
    assert get_model("lda").title == "Linear discriminant analysis"


def test_get_model_of_a_typo_names_the_nearest(plugin):
    with pytest.raises(
        UnknownNameError,
        match=r"Unknown model 'svn'\. Did you mean 'svm'\? .*cnn, dummy, keras, knn, lda, logistic, mlp",
    ):
        get_model("svn")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_row_is_complete(name):
    spec = MODELS[name]
    assert spec.name == name
    assert spec.title
    assert spec.version >= 1
    assert spec.cost > 0
    assert missing_packages(spec) == []


REFUSED = [
    ("svm", {"C": -1}, "C' parameter of SVC must be .* Got -1"),
    ("svm", {"C": 0}, "Got 0"),
    ("svm", {"C": "1e-3"}, "Got '1e-3'"),
    ("svm", {"C": True}, "C must not be a bool. Got True"),
    ("svm", {"C": float("inf")}, "C must be finite. Got inf"),
    ("svm", {"C": float("nan")}, "C must be finite. Got nan"),
    ("svm", {"C": [1.0]}, "C must be a number"),
    ("svm", {"gamma": True}, "gamma must not be a bool"),
    ("svm", {"shrinking": 1}, "shrinking"),
    ("svm", {"kernel": "rfb"}, "kernel"),
    ("svm", {"probability": True}, "cannot be set: its calibration holds out utterances at random"),
    ("svm", {"random_state": 1}, "follows from the run's seed. Set `seed` instead"),
    ("mlp", {"early_stopping": True}, "cannot be set: it holds out utterances at random"),
    ("mlp", {"max_iter": 2.5}, "Got 2.5"),
    ("mlp", {"hidden_layer_sizes": [16, 0]}, "Got 0"),
    ("mlp", {"hidden_layer_sizes": [16, -5]}, "Got -5"),
    ("mlp", {"hidden_layer_sizes": [16.0]}, "Got 16.0"),
    ("mlp", {"hidden_layer_sizes": [True]}, "must not be a bool"),
    ("mlp", {"hidden_layer_sizes": [[16]]}, "must be a number"),
    ("mlp", {"hidden_layer_sizes": "16"}, "Got '16'"),
    ("mlp", {"hidden_layer_size": [16]}, "Did you mean 'hidden_layer_sizes'"),
    ("cnn", {"epochs": 0}, "'epochs' .* Got 0"),
    ("cnn", {"epochs": True}, "epochs .* Got True"),
    ("cnn", {"dropout": 0.5}, "Unknown parameter 'dropout'"),
    ("cnn", {"options": {"dropuot": 0.5}}, "Did you mean 'dropout'"),
    ("keras", {"network": "refrence"}, "Did you mean 'reference'"),
    ("cnn", {"learning_rate": "1e-3"}, "learning_rate .* Got '1e-3'"),
    ("xgboost", {"n_estimators": 0}, "n_estimators .* Got 0"),
    ("xgboost", {"learning_rate": -0.1}, r"learning_rate .* Got -0\.1"),
    ("xgboost", {"max_depth": 4.5}, r"max_depth .* Got 4\.5"),
    ("dummy", {"strategy": "best"}, "strategy"),
]


@pytest.mark.parametrize(("name", "params", "message"), REFUSED, ids=[f"{n}-{p}" for n, p, _ in REFUSED])
def test_check_parameters_refuses(name, params, message):
    with pytest.raises(ConfigError, match=message):
        check_parameters(get_model(name), params)
    with pytest.raises(ConfigError, match=message):
        build(get_model(name), params)


def test_build_scales_inside_the_pipeline():
    assert [name for name, _ in build(get_model("svm")).steps] == ["scale", "model"]
    assert [name for name, _ in build(get_model("xgboost")).steps] == ["model"]


def test_build_sets_the_random_state_where_there_is_one(plugin):
    assert build(get_model("mlp"), random_state=5)[-1].random_state == 5
    assert "random_state" not in build(get_model("lda"), random_state=5)[-1].get_params()


def test_build_takes_a_list_for_a_tuple():
    spec = get_model("mlp")
    assert build(spec, {"hidden_layer_sizes": [8, 4]})[-1].hidden_layer_sizes == (8, 4)
    assert settings(spec, {"hidden_layer_sizes": [256, 128]}) == parameters(spec)


def test_svm_has_no_probabilities():
    assert not hasattr(make(get_model("svm")).fit(X, Y), "predict_proba")


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_import_is_light():
    done = run_python("import sys, emobench.models; print({'numpy', 'sklearn', 'pandas'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


def test_missing_package_is_named():
    code = (
        "import sys; sys.modules['xgboost'] = None\n"
        "from emobench.models import get_model, missing_packages\n"
        "print(missing_packages(get_model('xgboost')), missing_packages(get_model('svm')))"
    )
    assert run_python(code).stdout.strip() == "['xgboost'] []"


def test_models_need_no_package_that_they_do_not_name():
    code = """
import sys
HEAVY = {"tensorflow", "keras", "xgboost"}
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
from tests.test_models import MODELS, X, Y, UNHEARD, answers, check_parameters, make, parameters
for spec in MODELS.values():
    check_parameters(spec, parameters(spec))
    if not HEAVY & set(spec.requires):
        answers(make(spec).fit(X, Y), UNHEARD)
print("done")
"""
    done = run_python(code)
    assert done.stdout.strip() == "done", done.stderr
