"""Plug-ins: entry points and files join the tables; what is broken is one warning, an error only where it is used."""

import importlib.metadata
import os
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from emobench.corpora import get_corpus
from emobench.errors import ConfigError, Stopped, UnknownNameError
from emobench.features import FEATURES, feature_key, get_features
from emobench.metrics import get_metric
from emobench.models import MODELS, ModelSpec, get_model
from emobench.models.networks import get_network
from emobench.protocols import get_protocol
from emobench.registry import (
    TABLES,
    Option,
    PluginError,
    PluginWarning,
    active_files,
    attempt,
    listed,
    lookup,
    plain,
    plural,
    resolve,
    rows,
    using,
    with_plugins,
)
from emobench.stresses import get_stress

GETTERS = {
    "model": get_model,
    "feature set": get_features,
    "corpus": get_corpus,
    "protocol": get_protocol,
    "metric": get_metric,
    "network": get_network,
    "stress": get_stress,
}
LOGREG = """
from emobench.models import ModelSpec
LOGREG = ModelSpec("my-logreg", "Logistic regression", "sklearn.linear_model:LogisticRegression")
"""
EVERY_KIND = """
from emobench.corpora import CorpusSpec
from emobench.features import FeatureSpec
from emobench.metrics import MetricSpec
from emobench.models import ModelSpec
from emobench.models.networks import NetworkSpec
from emobench.protocols import ProtocolSpec
from emobench.stresses import StressSpec

ROWS = "rows in a container are not looked for", [ModelSpec("hidden", "Hidden", "sklearn.svm:SVC")]
MODEL = ModelSpec("my-model", "Mine", lambda **params: None)
FEATURES = FeatureSpec("my-features", "Mine", lambda signal, sr: signal, lambda frames: frames, n_features=3)
CORPUS = CorpusSpec("my-corpus", "Mine", lambda root: None)
PROTOCOL = ProtocolSpec("my-protocol", "Mine", lambda labels, seed: None)
METRIC = MetricSpec("my-metric", "Mine", lambda tables: tables.trace(axis1=-2, axis2=-1))
NETWORK = NetworkSpec("my-network", "Mine", lambda shape, n_classes: None)
STRESS = StressSpec("my-stress", "Mine", lambda signal, sr, level: signal, levels=(1,))
"""


class Point:
    """An installed entry point."""

    def __init__(self, name, load, dist="theirs"):
        self.name = name
        self.value = f"theirs:{name.upper()}"
        self.load = load if getattr(load, "__name__", "") == "load" else lambda: load  # a row may be callable too
        self.dist = SimpleNamespace(name=dist, version="1.2")


@pytest.fixture
def points(monkeypatch):
    """Install entry points for this test: group → list of `Point`."""
    groups = {}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: groups.get(group, []))
    return groups


@pytest.fixture
def write(tmp_path):
    """Write a plug-in file; return its path."""

    def write(text, name="mine.py"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def model(name="theirs", estimator="sklearn.svm:SVC"):
    return ModelSpec(name, "Theirs", estimator)


def raising(error):
    def load():
        raise error

    return load


# --- entry points -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TABLES)
def test_row_of_an_entry_point_is_found_and_named_among_the_known(points, kind):
    table = resolve(TABLES[kind])
    row = replace(next(iter(table.values())), name="theirs")
    points[f"emobench.{plural(kind)}"] = [Point("theirs", row)]
    assert GETTERS[kind]("theirs") is row
    with pytest.raises(UnknownNameError, match=r"Did you mean 'theirs'\? Known .*theirs"):
        GETTERS[kind]("thiers")


def test_own_row_is_preferred_to_an_entry_point_of_its_name(points):
    points["emobench.models"] = [Point("svm", model("svm"))]
    assert get_model("svm") is MODELS["svm"]
    with pytest.warns(PluginWarning, match=r"'svm' cannot be used: theirs 1\.2: emobench has a model 'svm' of its own"):
        assert rows("model", MODELS) == list(MODELS.values())


def test_listed_shows_rows_of_plugins_behind_our_own_with_their_origin(points, write):
    points["emobench.models"] = [Point("zeta", model("zeta"))]
    path = write(LOGREG)
    with using(path):
        found = [(row.name, origin) for row, origin in listed("model", MODELS)]
    assert found == [*((name, "emobench") for name in MODELS), ("my-logreg", path), ("zeta", "theirs 1.2")]


BROKEN = {
    "raises": (raising(ValueError("no\nluck")), r"theirs 1\.2 \(theirs:BAD\): ValueError: no\\nluck"),
    "exits": (raising(SystemExit(3)), r"SystemExit: 3"),
    "interrupts": (raising(KeyboardInterrupt()), r"KeyboardInterrupt"),
    "exotic": (raising(BaseException("odd")), r"BaseException: odd"),
    "no module": (raising(ModuleNotFoundError("No module named 'x'")), r"No module named 'x'"),
    "no attribute": (raising(AttributeError("module 'theirs' has no attribute 'BAD'")), r"has no attribute 'BAD'"),
    "no row": ({"name": "bad"}, r"it is no row of models but of type dict"),
    "another kind": (FEATURES["mfcc40"], r"it is no row of models but of type FeatureSpec"),
    "another name": (model("good"), r"its row is called 'good'"),
    "no target": (model("bad", "no_such_package:X"), r"'no_such_package' is not installed"),
    "no target at all": (model("bad", 3), r"estimator of 'bad' is 3, not a function, a class or"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_entry_point_is_one_warning_and_an_error_where_it_is_used(points, name):
    load, says = BROKEN[name]
    points["emobench.models"] = [Point("bad", load), Point("good", model("good"))]
    with pytest.warns(PluginWarning, match=says) as caught:
        assert [row.name for row in rows("model", MODELS)] == [*MODELS, "good"]
    assert len(caught) == 1
    assert get_model("good").name == "good"
    with pytest.raises(PluginError, match=f"The model 'bad' cannot be used: .*{says}") as refused:
        get_model("bad")
    assert refused.value.exit_code == 2


def test_two_distributions_that_offer_one_name_are_both_named(points):
    points["emobench.models"] = [Point("x", model("x"), "one"), Point("x", model("x"), "other")]
    with pytest.raises(PluginError, match=r"one 1\.2 and other 1\.2 both define it"):
        get_model("x")


def test_signal_that_ends_us_is_no_fault_of_a_plugin(points):
    points["emobench.models"] = [Point("slow", raising(Stopped(2)))]
    with pytest.raises(Stopped):
        rows("model", MODELS)


def test_attempt_keeps_stdout_clean(capsys):
    assert attempt(lambda: print("hello")) == (None, "")
    assert capsys.readouterr() == ("", "hello\n")


# --- files ------------------------------------------------------------------------------------------------------------


def test_rows_of_a_file_join_every_table_and_leave_with_the_block(write):
    with using([write(EVERY_KIND)]):
        for kind, get in GETTERS.items():
            name = f"my-{kind.removesuffix(' set').replace('feature', 'features')}"
            assert (get(name).kind, get(name).name) == (kind, name)
            assert len(get(name).plugin) == 16
        with pytest.raises(UnknownNameError):
            get_model("hidden")
    with pytest.raises(UnknownNameError):
        get_model("my-model")


def test_blocks_nest_and_the_same_text_counts_once(write):
    one, same, other = write(LOGREG), write(LOGREG, "copy.py"), write(LOGREG.replace("my-logreg", "other"), "other.py")
    with using(one), using([same, other]):
        assert len(active_files()) == 2
        assert get_model("my-logreg") is get_model("my-logreg")
        assert get_model("other").name == "other"


@pytest.mark.parametrize(
    "text, says",
    [
        ("raise ValueError('no luck')", r"ValueError: no luck \(line 1\)"),
        ("\n\ndef f():\n    1 / 0\nf()", r"ZeroDivisionError: division by zero \(line 4\)"),
        ("raise SystemExit", r"SystemExit \(line 1\)"),
        ("import sys\nsys.exit('enough')", r"SystemExit: enough \(line 2\)"),
        ("raise KeyboardInterrupt", r"KeyboardInterrupt \(line 1\)"),
        ("class Odd(BaseException): pass\nraise Odd('x')", r"Odd: x \(line 2\)"),
        ("raise ValueError('a\\nb')", r"ValueError: a\\nb"),
        ("def (", r"SyntaxError: invalid syntax"),
        ("import sibling_of_mine", r"ModuleNotFoundError: No module named 'sibling_of_mine'"),
        ("X = 1", r"it defines no row"),
        ("", r"it defines no row"),
        (LOGREG.replace("my-logreg", "a/b"), r"its name is 'a/b'"),
        (LOGREG.replace("sklearn", "no_such_package"), r"'no_such_package' is not installed"),
        (LOGREG.replace(".linear_model:LogisticRegression", ""), r"not a function, a class or 'module:attribute'"),
        (LOGREG + LOGREG.replace("LOGREG =", "AGAIN ="), r"two of its rows have one kind and one name"),
    ],
    ids=lambda value: None,
)
def test_broken_file_is_one_warning_and_named_where_a_row_is_missed(write, text, says):
    path, sound = write(text), write(LOGREG.replace("my-logreg", "sound"), "sound.py")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with using([path, sound]):
            assert [row.name for row in rows("model", MODELS)] == [*MODELS, "sound"]
            with pytest.raises(UnknownNameError, match=f"{path} could define more, but cannot be used: .*{says}"):
                get_model("wanted")
    [warning] = caught
    assert warning.category is PluginWarning
    assert re.match(f"the plug-in {path} cannot be used: .*{says}", str(warning.message))


def test_name_that_exists_already_is_an_error_that_names_both(write, points):
    path, other = write(LOGREG), write(LOGREG + "# another", "other.py")
    with (
        pytest.raises(ConfigError, match=f"'my-logreg' is defined twice, by {path} and by {other}"),
        using([path, other]),
    ):
        pass
    path = write(LOGREG.replace("my-logreg", "svm"))
    with pytest.raises(ConfigError, match=f"'svm' is defined twice, by emobench and by {path}"), using(path):
        pass
    points["emobench.models"] = [Point("my-logreg", model("my-logreg"))]
    path = write(LOGREG)
    with pytest.raises(ConfigError, match=rf"'my-logreg' is defined twice, by theirs 1\.2 and by {path}"), using(path):
        pass


def test_row_of_ours_that_a_file_imports_is_not_the_files(write):
    text = "from dataclasses import replace\nfrom emobench.models import get_model\nSVM = get_model('svm')\n"
    with using(write(text + "MINE = replace(SVM, name='my-svm', defaults={'C': 1.0})")):
        assert get_model("svm").plugin == ""
        assert get_model("my-svm").plugin


@pytest.mark.parametrize("name", ["none.py", "folder", "latin.py", "nul\0.py"])
def test_file_that_cannot_be_read_is_a_config_error(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.py").write_bytes(b"# \xe4\n")
    refusal = "the plug-in cannot be read: .* Give a Python file in UTF-8"
    with pytest.raises(ConfigError, match=refusal), using(tmp_path / name):
        pass


def test_hash_of_a_file_is_in_the_keys_of_its_rows_and_of_no_others(write):
    text = EVERY_KIND
    keys, own = [], []
    for version in (text, text + "\n# a comment"):
        with using(write(version)):
            keys.append(feature_key(get_features("my-features")))
            own.append((feature_key(FEATURES["mfcc40"]), MODELS["svm"].origin_key()))
            assert get_features("my-features").specification()["plugin"] == get_model("my-model").plugin
            assert feature_key(replace(get_features("my-features"), title="x")) == keys[-1]
    assert keys[0] != keys[1]
    assert own[0] == own[1]
    assert own[0][1] == {}


def test_file_is_loaded_once_and_again_when_it_was_changed(write, monkeypatch):
    monkeypatch.setattr(sys, "loads", [], raising=False)
    text = LOGREG + "import sys\nsys.loads.append(1)\n"
    for _ in range(2):
        with using(write(text)):
            pass
    assert len(sys.loads) == 1
    with using(write(text + "# changed")):
        assert len(sys.loads) == 2


def test_rows_travel_with_their_text_to_a_process_that_knows_nothing(write):
    """loky, Dask and the processes of latency all do it by pickle; a lambda could not go alone."""
    with using(write(EVERY_KIND)):
        function, [task] = with_plugins(np.shape, [(np.zeros(3),)])
        content = pickle.dumps((function, task, get_features("my-features")))
    os.unlink(write(""))
    code = (
        "import pickle, sys\n"
        "function, task, row = pickle.loads(sys.stdin.buffer.read())\n"
        "print(function(*task), row.summary('seen'), row.plugin)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
    assert done.stdout.decode().split()[:2] == ["(3,)", "seen"]


def test_worker_knows_the_rows_during_its_task_only(write):
    with using(write(LOGREG)):
        function, [task] = with_plugins(get_model, [("my-logreg",)])
    assert function(*task).name == "my-logreg"
    assert active_files() == []


def test_tasks_are_left_alone_where_there_are_no_files():
    assert with_plugins(len, [("x",)]) == (len, [("x",)])


def test_plugin_that_is_used_twice_warns_once(write):
    path = write("raise ValueError('no luck')")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with using(path), using(path), using():
            rows("model", MODELS)
    assert len(caught) == 1


# --- what keys are made of --------------------------------------------------------------------------------------------


def test_callable_is_known_by_its_name_never_by_its_address():
    assert plain(np.mean) == "numpy:mean"
    assert plain({"a": (ModelSpec, [1, None, True, 0.5, "x"])}) == {
        "a": ["emobench.models:ModelSpec", [1, None, True, 0.5, "x"]]
    }
    assert "0x" not in plain(object())
    assert plain(object()) == plain(object())


@pytest.mark.parametrize(
    "option, value, says",
    [
        (Option(int, 6, ge=2), 2, ""),
        (Option(int, 6, ge=2), 1, "must be at least 2. Got 1."),
        (Option(int, 6, le=8), 9, "must be at most 8. Got 9."),
        (Option(int), True, "must be a whole number. Got True."),
        (Option(int), 2.0, "must be a whole number. Got 2.0."),
        (Option(float, 0.5), 1, ""),
        (Option(float, 0.5, ge=0), float("nan"), "must be at least 0. Got nan."),
        (Option(bool, False), 1, "must be true or false. Got 1."),
        (Option(str, "a", choices=("a", "b")), "c", "must be one of a, b. Got 'c'."),
        (Option(str, "a"), ["a"], "must be text. Got ['a']."),
    ],
)
def test_option_says_what_it_takes(option, value, says):
    assert option.problem(value) == says


def test_lookup_of_what_is_no_name_is_refused():
    for name in (None, 3, ("svm",)):
        with pytest.raises(UnknownNameError, match="Unknown model"):
            lookup("model", MODELS, name)
