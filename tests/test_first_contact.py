"""What somebody meets in the first half hour: places, names, counts and remarks."""

import json
import warnings

import numpy as np
import pytest
import soundfile
from conftest import SR, tone, write_corpus

from emobench.cli.console import _duration
from emobench.corpora import CORPORA
from emobench.corpora.location import locate
from emobench.errors import ConfigError, UnknownNameError, did_you_mean
from emobench.metrics import METRICS
from emobench.reporter import Reporter, summarise
from emobench.results.run import load_results
from emobench.running.planning import plan
from emobench.running.runner import run


class Listener(Reporter):
    def __init__(self):
        self.said, self.warned, self.shares = [], [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)


@pytest.fixture
def ravdess(tmp_path):
    folder = tmp_path / "here" / "Speech" / "RAVDESS"
    (folder / "Actor_01").mkdir(parents=True)
    return folder


# --- where corpora are (N30, N31) -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_above", [1, 2, 3])
def test_data_folder_may_lie_one_or_two_folders_too_high(ravdess, monkeypatch, n_above):
    monkeypatch.setenv("EMOBENCH_DATA", str(ravdess.parents[n_above - 1]))
    assert locate(CORPORA["ravdess"]) == ravdess.resolve()


def test_data_folder_that_is_the_corpus_itself_is_answered_with_the_value_to_set(ravdess, monkeypatch):
    monkeypatch.setenv("EMOBENCH_DATA", str(ravdess))
    with pytest.raises(ConfigError, match=f"Set EMOBENCH_DATA={ravdess.resolve().parent}"):
        locate(CORPORA["ravdess"])


def test_corpus_found_elsewhere_below_the_data_folder_is_a_remark(tmp_path, monkeypatch):
    folder, rng = tmp_path / "deep" / "ravdess", np.random.default_rng(0)
    for actor in ("01", "02"):
        (folder / f"Actor_{actor}").mkdir(parents=True)
        for emotion in ("03", "04"):
            name = f"Actor_{actor}/03-01-{emotion}-01-01-01-{actor}.wav"
            soundfile.write(folder / name, tone(200, 0.7, rng), SR)
    monkeypatch.setenv("EMOBENCH_DATA", str(tmp_path))
    config = {"corpora": ["ravdess"], "models": ["dummy"], "protocols": ["loso"]}
    assert f"ravdess: found in {folder}, which is not directly below EMOBENCH_DATA ({tmp_path})" in plan(config).remarks


# --- names (N32) ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given, near", [("LOSO", "loso"), ("Svm", "svm"), ("group_KFOLD", "group-kfold")])
def test_name_that_differs_in_case_is_suggested(given, near):
    assert did_you_mean(given, ["cnn", "group-kfold", "loso", "svm"]) == f" Did you mean {near!r}?"


# --- remarks (N18, N19) ---------------------------------------------------------------------------------------------


def test_remarks_of_a_kind_are_one_line_with_their_number_and_three_names():
    remarks = [(f"{i}.wav", "clipped") for i in range(100)] + [("7.wav", "silent"), ("7.wav", "silent")]
    assert summarise(remarks) == ["0.wav, 1.wav, 2.wav and 97 more: clipped", "7.wav: silent"]


@pytest.fixture
def low_corpus(tmp_path):
    """A corpus recorded at 16 kHz, below the rate of both feature sets."""
    folder = write_corpus(tmp_path)
    for path in folder.rglob("*.wav"):
        signal, _ = soundfile.read(path)
        soundfile.write(path, signal, 16_000)
    return folder


def test_run_tells_every_remark_once_and_lists_all_in_a_file(low_corpus, tmp_path):
    listener = Listener()
    config = {
        "corpora": [{"name": "manifest", "path": str(low_corpus / "manifest.csv")}],
        "features": ["mfcc40", "mfcc40_stats"],
        "models": ["svm", "dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
    }
    outcome = run(config, output=tmp_path / "results", n_jobs=1, reporter=listener)
    low = [text for text in listener.warned if "recorded at 16000 Hz" in text]
    assert len(low) == 2  # one a feature set, whatever the number of clips
    assert all("s0/angry-0.wav, s0/angry-1.wav, s0/happy-0.wav and 21 more: " in text for text in low)
    assert len(listener.warned) == len(set(listener.warned))
    assert set(outcome.remarks) == set(listener.warned)
    assert len((outcome.folder / "notes.csv").read_text().splitlines()) == 1 + 2 * 24


# --- tables from Python ---------------------------------------------------------------------------------------------


def test_tables_of_a_run_are_typed_and_a_misspelt_name_is_answered_with_the_known(tiny_corpus, tmp_path):
    config = {
        "corpora": [{"name": "manifest", "path": str(tiny_corpus / "manifest.csv")}],
        "models": ["svm", "dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
    }
    found = load_results(run(config, output=tmp_path, n_jobs=1).folder)
    slices = found.table("slices")
    assert slices["uar"].dtype == float
    assert slices["n_utterances"].dtype.kind == "i"
    assert slices["value"].map(type).eq(str).all()
    assert found.table("folds")["fold"].dtype.kind == "i"
    assert found.table("intervals")["value"].dtype == float
    assert found.table("trials") is None
    with pytest.raises(UnknownNameError, match="Unknown table 'slice'. Did you mean 'slices'\\? Known tables: scores"):
        found.table("slice")


# --- counts and durations (N37, N38) --------------------------------------------------------------------------------


def test_plan_run_and_outcome_count_the_same_jobs(tiny_corpus, tmp_path):
    config = {
        "corpora": [{"name": "manifest", "path": str(tiny_corpus / "manifest.csv")}],
        "models": ["svm", "dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
    }
    planned = plan(config, output=tmp_path)
    listener = Listener()
    outcome = run(config, output=tmp_path, n_jobs=1, reporter=listener)
    assert (len(planned.jobs), outcome.n_computed) == (6, 6)
    assert listener.said[0].startswith("6 jobs (2 of them final fits on everything) to run, 0 finished before")
    again = run(config, output=tmp_path, n_jobs=1)
    assert (again.n_computed, again.n_reused) == (0, 6)


def test_estimate_is_never_below_the_number_of_fits_times_the_shortest_one(tiny_corpus, tmp_path):
    config = {
        "corpora": [{"name": "manifest", "path": str(tiny_corpus / "manifest.csv")}],
        "models": ["svm"],
        "protocols": ["loso"],
        "tuning": {"n_trials": 10_000, "inner_splits": 3},
        "repeats": 1000,
    }
    planned = plan(config, output=tmp_path, n_jobs=1)
    n_fits = 4 * 1000 * 10_000 * 2 * 0.8
    assert planned.estimate_s > n_fits * 0.002


@pytest.mark.parametrize(
    "seconds, text",
    [(0.2, "nothing to do"), (90, "90 s"), (600, "10 min"), (7200, "2 h"), (400_000, "5 days"), (5e6, "8 weeks")],
)
def test_durations_are_told_in_the_unit_that_people_use(seconds, text):
    assert _duration(seconds) == text


def test_json_of_a_run_still_holds_all_remarks(low_corpus, tmp_path, capsys):
    from emobench.cli.main import main

    path = tmp_path / "c.yaml"
    path.write_text(
        f"corpora: [{{name: manifest, path: {low_corpus / 'manifest.csv'}}}]\nmodels: [dummy]\nprotocols: [loso]\n"
    )
    with pytest.raises(SystemExit):
        main(["run", str(path), "--output", str(tmp_path / "results"), "--json", "--n-jobs", "1"])
    out, err = capsys.readouterr()
    assert sum("recorded at 16000 Hz" in text for text in json.loads(out)["remarks"]) == 1
    assert err.count("recorded at 16000 Hz") == 1


def test_session_sees_no_warning_of_a_library(tiny_corpus, tmp_path):
    """N49: models that always answer the same give statistics without spread."""
    config = {
        "corpora": [{"name": "manifest", "path": str(tiny_corpus / "manifest.csv")}],
        "models": ["dummy", {"name": "dummy", "id": "uniform", "params": {"strategy": "uniform"}}],
        "protocols": ["loso"],
        "metrics": sorted(METRICS),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(config, output=tmp_path, n_jobs=1).exit_code == 0
