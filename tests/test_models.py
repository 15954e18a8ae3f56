"""The contract of a model, held by every row of `MODELS` and by every plug-in."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from emobench.errors import ConfigError, UnknownNameError
from emobench.models import (
    MODELS,
    ModelSpec,
    build,
    check_parameters,
    describe,
    get_model,
    missing_packages,
    parameters,
    settings,
)
from emobench.testing import check_model
from emobench.testing.models import MODEL_CHECKS, X, Y
from emobench.testing.rows import check_row

ROOT = Path(__file__).parents[1]
QUICK = {
    "cnn": {"epochs": 40, "options": {"filters": 16}},
    "keras": {"epochs": 40, "options": {"filters": 16}},
    "mlp": {"hidden_layer_sizes": [16]},
    "xgboost": {"n_estimators": 15},
}

# (model, check) → why it need not hold.
EXCEPTIONS = {
    ("dummy", "beats_chance"): "it is chance",
    ("dummy", "does_not_order_labels"): "all classes are equally frequent, and it says the first",
}


def make(spec, *, random_state=0):
    return build(spec, QUICK.get(spec.name), random_state=random_state)


@pytest.mark.parametrize("check", MODEL_CHECKS)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_model(name, check):
    if reason := EXCEPTIONS.get((name, check)):
        pytest.skip(reason)
    MODEL_CHECKS[check](get_model(name), QUICK.get(name, {}))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_row_keeps_the_contract_of_rows(name):
    check_row(MODELS[name], "model")


def test_exceptions_are_exceptions():
    for (name, check), reason in EXCEPTIONS.items():
        with pytest.raises(AssertionError):
            MODEL_CHECKS[check](get_model(name), QUICK.get(name, {}))
        assert reason


class EntryPoint:
    """What an installed plug-in looks like to `importlib.metadata`."""

    name = "lda"
    value = "theirs:LDA"
    dist = None

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
    check_model(get_model("lda"))


def test_row_added_to_the_table_is_found(monkeypatch):
    monkeypatch.setitem(MODELS, "lda", EntryPoint().load())
    assert get_model("lda").title == "Linear discriminant analysis"


def test_get_model_of_a_typo_names_the_nearest(plugin):
    with pytest.raises(UnknownNameError, match=r"Unknown model 'svn'\. Did you mean 'svm'\? Known models: .*lda"):
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
    ("cnn", {"learning_rate": "1e-3"}, "learning_rate.* Got '1e-3'"),
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
from emobench.testing.models import UNHEARD, X, Y, answers
from tests.test_models import MODELS, check_parameters, make, parameters
for spec in MODELS.values():
    check_parameters(spec, parameters(spec))
    if not HEAVY & set(spec.requires):
        answers(make(spec).fit(X, Y), UNHEARD)
print("done")
"""
    done = run_python(code)
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize("name", [name for name, row in MODELS.items() if row.later])
def test_parameter_that_came_later_changes_no_identity_until_it_is_set(name):
    row = MODELS[name]
    weighted = describe(row, {"class_weight": "balanced"})
    assert describe(row, {"class_weight": None}) == describe(row, {}) != weighted
    assert "class_weight" not in describe(row, {})["params"]
    assert weighted["params"]["class_weight"] == "balanced"
