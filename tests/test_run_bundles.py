"""A run leaves a bundle of every entry, fitted on everything, with what the run found out about it."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import write_corpus

import emobench
from emobench.audio.decoding import read_audio
from emobench.bundles.storage import read_bundle
from emobench.features import FeatureTable, get_features
from emobench.models import build, get_model
from emobench.prediction.predictor import Predictor
from emobench.prediction.selection import find_entry
from emobench.running.evaluation import Job, fit_everything
from emobench.running.runner import run

EMOTIONS = ("angry", "happy", "sad")
POOR = {"gamma": 2.0}  # parameters that any search improves on


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """24 tones of eight speakers: enough of them for intervals."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), n_speakers=8, n_repetitions=1)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """The folder of a run of a tuned and untuned model, and of one that has nothing to tune."""
    folder = tmp_path_factory.mktemp("run")
    config = {
        "corpora": [{"name": "manifest", "path": str(corpus / "manifest.csv")}],
        "models": [{"name": "svm", "params": POOR}, "dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}, {"name": "random-kfold", "n_splits": 2}],
        "tuning": {"n_trials": 4, "inner_splits": 2},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOBENCH_STORE", str(folder / "store"))
        return run(config, output=folder, n_jobs=1).folder


def everything(predictor, corpus):
    """Return the features and labels of the whole corpus."""
    paths = sorted(corpus.glob("*/*.wav"))
    X = np.stack([predictor.features(path) for path in paths])
    return X, np.array([EMOTIONS.index(path.name.split("-")[0]) for path in paths])


def test_every_entry_has_a_bundle(folder):
    board = pd.read_csv(folder / "leaderboard.csv")
    assert {path.name for path in (folder / "models").iterdir()} == set(board["entry"]) == {"svm", "svm-tuned", "dummy"}


@pytest.mark.parametrize("entry", ["svm", "svm-tuned", "dummy"])
def test_bundle_says_what_the_run_says(folder, corpus, entry):
    manifest = json.loads((folder / "models" / entry / "manifest.json").read_text())
    record = json.loads((folder / "run.json").read_text())
    board = pd.read_csv(folder / "leaderboard.csv", keep_default_na=False)
    board = board[board["entry"] == entry].set_index("protocol")
    assert {row["protocol"]: row["waives"] for row in manifest["scores"]} == {
        "group-kfold": "",
        "random-kfold": "speaker",
    }
    for row in manifest["scores"]:
        for name in ("uar", "uar_low", "uar_high", "war", "macro_f1"):
            cell = board.loc[row["protocol"], name]
            assert row[name] == (pytest.approx(float(cell)) if cell != "" else None), name
        if not row["waives"]:
            assert row["uar_low"] <= row["uar"] <= row["uar_high"]
    assert manifest["classes"] == list(EMOTIONS)
    assert manifest["features"] == get_features("mfcc40").specification()
    trained_on = manifest["trained_on"]
    assert (trained_on["corpus"], trained_on["fingerprint"]) == (
        "manifest",
        record["corpora"]["manifest"]["fingerprint"],
    )
    assert (trained_on["n_utterances"], trained_on["n_speakers"], trained_on["run"]) == (24, 8, record["run"])
    assert (trained_on["licence"], trained_on["is_generated"]) == ("", False)
    assert {"scikit-learn", "numpy", "librosa", "emobench", "onnxruntime"} <= set(manifest["versions"])
    assert manifest["audio_ids"] == sorted(read_audio(path).content[:16] for path in corpus.glob("*/*.wav"))
    assert manifest["parity"]["n_rows"] == 3 * 24


def test_tuned_bundle_has_the_parameters_that_the_whole_corpus_chooses(folder, corpus):
    """A search on every recording found them, and the model was fitted on every recording with them."""
    predictor = emobench.load(find_entry(folder, "svm-tuned"))
    params = predictor.bundle.manifest.params
    assert set(params) == {"C", "gamma"}
    X, y = everything(predictor, corpus)
    again = build(get_model("svm"), params).fit(X, y)
    asked = X[:, ::-1].copy()
    np.testing.assert_array_equal(predictor.classify(asked)[0], again.predict(asked))


def test_tables_hold_plain_types_only(folder):
    """Nothing is pickled into a cell (S6)."""
    tables = sorted(folder.glob("*.parquet"))
    assert tables
    for path in tables:
        types = {str(field.type) for field in pq.read_schema(path)}
        assert types <= {"string", "large_string", "double", "int64", "bool"}, path


def test_untuned_bundle_is_fitted_on_everything(folder, corpus):
    predictor = Predictor(read_bundle(folder / "models" / "svm"))
    X, y = everything(predictor, corpus)
    again = build(get_model("svm"), POOR).fit(X, y)
    np.testing.assert_array_equal(predictor.classify(X)[0], again.predict(X))
    assert predictor.bundle.manifest.params == POOR


def test_model_that_cannot_be_exported_leaves_the_others_alone(corpus, tmp_path):
    """It is scored as any other, has no bundle, and a remark says why; the exit code is that of success."""
    config = {
        "corpora": [{"name": "manifest", "path": str(corpus / "manifest.csv")}],
        "models": ["svm", {"name": "dummy", "id": "random", "params": {"strategy": "uniform"}}, "dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
    }
    outcome = run(config, output=tmp_path, n_jobs=1)
    assert outcome.exit_code == 0
    assert set(outcome.leaderboard["entry"]) == {"svm", "random", "dummy"}
    assert {path.name for path in (outcome.folder / "models").iterdir()} == {"svm", "dummy"}
    (remark,) = (remark for remark in outcome.remarks if "no bundle" in remark)
    assert remark.startswith("random · manifest · mfcc40 · everything: no bundle: DummyClassifier cannot be exported")
    again = run(config, output=tmp_path, n_jobs=1)
    assert remark in again.remarks


@pytest.mark.parametrize("error", [KeyError("no such layer"), MemoryError(), SystemExit(3), RecursionError("too deep")])
def test_whatever_an_export_raises_is_a_reason(monkeypatch, error):
    def fails(estimator):
        raise error

    monkeypatch.setattr("emobench.bundles.converters.from_sklearn", fails)
    rng = np.random.default_rng(0)
    table = FeatureTable(
        X=rng.normal(size=(12, 40)).astype(np.float32),
        y=np.arange(12) % 3,
        classes=EMOTIONS,
        ids=tuple(map(str, range(12))),
        speakers=("a",) * 12,
        sexes=("",) * 12,
        spec=get_features("mfcc40"),
        key="",
    )
    names = dict.fromkeys(("key", "corpus", "features", "entry", "protocol"), "x")
    rows = {"train": np.arange(12), "test": np.arange(0)}
    found = fit_everything(
        table, Job(**names, **rows, model="svm", params={}, waives=(), repeat=0, fold=-1, random_state=0)
    )
    assert (found.error, found.onnx) == ("", b"")
    assert type(error).__name__ in found.no_bundle
    assert found.no_bundle.startswith("no bundle: ")
