"""`stress: {}` in a config: every fold's model asked about its own test part, once it has left the studio."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import tone, write_corpus

from emobench.comparison.verdicts import compare
from emobench.config.yaml import load_config
from emobench.errors import ConfigError
from emobench.reports import derivation
from emobench.running import journal
from emobench.running.evaluation import FoldResult
from emobench.running.planning import plan
from emobench.running.runner import run

STRESS = {"stresses": {"gain": [0, -20], "white-noise": [0], "babble": [0]}, "thresholds": {"gain": {"unchanged": 0.5}}}
N_CHANGES = 4
SMALL = """
from emobench.models.networks import NetworkSpec


def small(shape, n_classes):
    from keras import Sequential, layers

    end = layers.Dense(n_classes, activation="softmax")
    return Sequential([layers.Input(shape), layers.GlobalAveragePooling1D(), end])


MINE = NetworkSpec("mine", "The mean over time", small, takes=("frames",))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("stressed"), n_speakers=8, n_repetitions=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for this module, so that stressed recordings are made once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def _shared_store(monkeypatch, store):
    monkeypatch.setenv("EMOBENCH_STORE", str(store))


def config_of(corpus, **changes):
    return {
        "corpora": [{"name": "manifest", "path": str(corpus / "manifest.csv")}],
        "models": ["logistic", "svm"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}, {"name": "random-kfold", "n_splits": 2}],
        "stress": STRESS,
        **changes,
    }


def plain(corpus):
    config = config_of(corpus)
    del config["stress"]
    return config


@pytest.fixture(scope="module")
def finished(corpus, store, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOBENCH_STORE", str(store))
        return run(config_of(corpus), output=tmp_path_factory.mktemp("finished"), n_jobs=1)


def table_of(outcome):
    return pd.read_csv(outcome.folder / "stress.csv")


def test_run_writes_a_row_for_each_stress_level_and_measure_of_each_entry(finished):
    assert finished.exit_code == 0
    found = table_of(finished)
    assert set(found["protocol"]) == {"group-kfold"}  # where speakers are shared, nothing is asked
    assert set(found["entry"]) == {"logistic", "svm"}
    stressed = found[found["level"].notna()]
    assert stressed.groupby("entry").size().unique().tolist() == [3 * N_CHANGES]
    assert set(stressed["measure"]) == {"unchanged", "uar", "delta_uar"}
    assert {"female-male"} <= set(found.loc[found["measure"] == "gap", "group"])


def test_identity_changes_no_answer(finished):
    found = table_of(finished).query("stress == 'gain' and level == 0").set_index(["entry", "measure"])
    for entry in ("logistic", "svm"):
        assert found.loc[(entry, "unchanged"), ["value", "low", "high"]].tolist() == [1, 1, 1]
        assert found.loc[(entry, "delta_uar"), ["value", "low", "high"]].tolist() == [0, 0, 0]


def test_clean_rows_are_those_of_the_leaderboard(finished):
    found = table_of(finished).query("stress == 'clean' and measure == 'uar'").set_index("entry")
    board = finished.leaderboard.query("protocol == 'group-kfold'").set_index("entry")
    for entry in board.index:
        for column, other in {"value": "uar", "low": "uar_low", "high": "uar_high"}.items():
            assert found.loc[entry, column] == pytest.approx(board.loc[entry, other], abs=1e-6)


def test_noise_as_loud_as_the_voice_is_noticed(finished):
    found = table_of(finished).query("stress == 'white-noise' and measure == 'unchanged'")
    assert (found["value"] < 1).all()


def test_thresholds_of_the_config_take_the_place_of_those_of_the_row(finished):
    found = table_of(finished).query("measure == 'unchanged'")
    assert set(found.query("stress == 'gain'")["threshold"]) == {0.5}
    assert found.query("stress == 'white-noise'")["threshold"].isna().all()  # judged at 20 dB only
    assert set(found.query("stress == 'gain' and level == 0")["verdict"]) == {"pass"}


def test_stress_changes_no_other_figure(finished, corpus, tmp_path):
    without = run(plain(corpus), output=tmp_path, n_jobs=1)
    assert without.folder.name == finished.folder.name
    for name in ("predictions.csv", "intervals.csv", "slices.csv", "confusion.csv"):
        assert (without.folder / name).read_bytes() == (finished.folder / name).read_bytes()
    assert not (without.folder / "stress.csv").exists()


def test_adding_stress_fits_only_what_it_asks_and_writes_the_same(finished, corpus, tmp_path):
    run(plain(corpus), output=tmp_path, n_jobs=1)
    later = run(config_of(corpus), output=tmp_path, n_jobs=1)
    assert later.n_computed == 2 * 2  # the folds of group-kfold, and no final fit
    assert (later.folder / "stress.csv").read_bytes() == (finished.folder / "stress.csv").read_bytes()
    assert run(config_of(corpus), output=tmp_path, n_jobs=1).n_computed == 0
    without = run(plain(corpus), output=tmp_path, n_jobs=1)
    assert without.n_computed == 0
    assert not (without.folder / "stress.csv").exists()
    assert not (without.folder / "stress_answers.parquet").exists()


def test_a_further_stress_is_asked_later(corpus, tmp_path):
    first = run(config_of(corpus, stress={"stresses": {"gain": [0]}}), output=tmp_path, n_jobs=1)
    second = run(config_of(corpus), output=tmp_path, n_jobs=1)
    assert second.folder == first.folder
    assert second.n_computed == 4
    assert set(table_of(second)["stress"]) == {"clean", "gain", "white-noise", "babble"}


def test_a_job_that_answers_otherwise_the_second_time_fails(corpus, tmp_path):
    first = run(plain(corpus), output=tmp_path, n_jobs=1)
    path = sorted((first.folder / "jobs").glob("*.json"))
    results = [FoldResult.from_json(one.read_bytes()) for one in path]
    for result in results:
        turned = [(code + 1) % 3 for code in result.y_pred]
        journal.write_finished(first.folder, FoldResult(**{**vars(result), "y_pred": turned}))
    second = run(config_of(corpus), output=tmp_path, n_jobs=1)
    assert second.exit_code == 4
    assert any("it gave other answers to 12 of 12 recordings" in remark for remark in second.remarks)


def test_two_workers_write_what_one_writes(finished, corpus, tmp_path):
    other = run(config_of(corpus), output=tmp_path, n_jobs=2)
    for name in ("stress.csv", "stress_answers.parquet"):
        assert (other.folder / name).read_bytes() == (finished.folder / name).read_bytes()


def test_nothing_is_left_of_the_files_between_workers(finished):
    assert not list(finished.folder.glob(".stress*"))


def test_report_writes_the_same_again(finished):
    before = {name: (finished.folder / name).read_bytes() for name in ("stress.csv", "report.html", "SHA256SUMS")}
    (finished.folder / "stress.csv").unlink()
    derivation.rebuild(finished.folder)
    assert {name: (finished.folder / name).read_bytes() for name in before} == before


def test_page_shows_curves_and_the_worst_in_words(finished):
    page = (finished.folder / "report.html").read_text()
    assert "Outside the studio" in page
    assert "<strong>logistic</strong> loses most here: " in page
    assert "UAR of each entry under each stress, by level" in page


def test_plan_counts_stressed_recordings(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOBENCH_STORE", str(tmp_path / "store"))
    before = plan(config_of(corpus), output=tmp_path, n_jobs=1)
    assert before.n_to_stress == 24 * N_CHANGES
    assert before.estimate_s > plan(plain(corpus), output=tmp_path, n_jobs=1).estimate_s
    run(config_of(corpus), output=tmp_path, n_jobs=1)
    assert plan(config_of(corpus), output=tmp_path, n_jobs=1).n_to_stress == 0


def test_answers_are_tidy(finished):
    answers = pd.read_parquet(finished.folder / "stress_answers.parquet")
    assert len(answers) == 2 * 24 * (1 + N_CHANGES)
    assert answers.groupby(["entry", "stress", "level"], dropna=False)["utterance"].nunique().unique().tolist() == [24]
    assert np.isfinite(answers["f0_hz"]).all()


def test_a_tuned_entry_is_asked_with_the_parameters_that_it_chose(corpus, tmp_path):
    tuned = config_of(corpus, models=["svm"], tuning={"n_trials": 2, "inner_splits": 2})
    before = {key: value for key, value in tuned.items() if key != "stress"}
    first = run(before, output=tmp_path, n_jobs=1)
    trials = (first.folder / "trials.csv").read_bytes()
    second = run(tuned, output=tmp_path, n_jobs=1)
    assert second.exit_code == 0
    assert (second.folder / "trials.csv").read_bytes() == trials
    assert set(table_of(second)["entry"]) == {"svm", "svm-tuned"}


def test_run_json_holds_the_thresholds_that_verdicts_follow_from(finished):
    settings = json.loads((finished.folder / "run.json").read_text())["stress"]
    assert settings["sex_gap"] == 0.075
    assert {"stress": "gain", "level": -20.0, "unchanged": 0.5} in settings["thresholds"]


@pytest.fixture
def hoarse(finished, tmp_path):
    """A copy of the run in which one entry loses more in noise."""
    shutil.copytree(finished.folder, tmp_path / finished.folder.name)
    path = tmp_path / finished.folder.name / "stress.csv"
    table = pd.read_csv(path)
    chosen = (table["entry"] == "svm") & (table["stress"] == "white-noise") & (table["measure"] == "delta_uar")
    table.loc[chosen, ["value", "low", "high"]] = [-0.9, -0.95, -0.85]
    before = (table["stress"] == "white-noise") & (table["measure"] == "delta_uar") & ~chosen
    table.loc[before, ["value", "low", "high"]] = [-0.3, -0.35, -0.25]
    table.to_csv(path, index=False)
    sums = path.parent / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines(keepends=True) if not line.endswith(" stress.csv\n")]
    sums.write_text("".join([*lines, f"{hashlib.sha256(path.read_bytes()).hexdigest()}  stress.csv\n"]))
    return path.parent


def test_compare_fails_what_loses_more_under_stress(finished, hoarse):
    found = compare(finished.folder, hoarse, fail={"stress:white-noise:delta_uar": 0.1})
    verdicts = {(item.entry, item.metric): item for item in found.verdicts if item.protocol == "group-kfold"}
    assert found.exit_code == 10
    item = verdicts["svm", "stress:white-noise:delta_uar 0"]
    assert item.status == "worse"
    assert item.candidate == pytest.approx(-0.9)
    assert compare(finished.folder, finished.folder, fail={"stress:white-noise:delta_uar": 0.1}).exit_code == 0


def test_compare_refuses_figures_that_no_run_has(finished):
    with pytest.raises(ConfigError, match="Did you mean 'stress:gain:delta_uar'"):
        compare(finished.folder, finished.folder, fail={"stress:gain:delta_ua": 0.1})


@pytest.mark.parametrize(
    "stress, message",
    [
        ({"stresses": {"gian": []}}, "Did you mean 'gain'"),
        ({"stresses": {"gain": []}, "thresholds": {"room": {"unchanged": 0.5}}}, "'room' is not among `stresses`"),
        ({"thresholds": {"gain": {"uar": 0.5}}}, "uar"),
        ({"stresses": {}}, "stresses"),
        ({"stresses": {"gain": [float("inf")]}}, "finite"),
    ],
)
def test_config_refuses(corpus, stress, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config_of(corpus, stress=stress))


def test_stress_alone_is_every_stress(corpus):
    config = load_config(config_of(corpus, stress={}))
    assert "babble" in config.stress.stresses
    assert config.stress.thresholds_at("white-noise", 20) == {"unchanged": 0.9, "delta_uar": -0.05}
    assert config.stress.thresholds_at("white-noise", 0) == {}


def test_frames_of_recordings_in_several_windows_are_asked(tmp_path):
    """The recordings last longer than a window of frames, so that each has several rows."""
    folder = tmp_path / "long"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        emotion = ["angry", "happy"][number % 2]
        signal = tone({"angry": 320.0, "happy": 210.0}[emotion], 0.6, rng, duration_s=4.0 if number % 3 else 0.5)
        soundfile.write(folder / f"{number}.wav", signal, 22_050)
        rows.append({"path": f"{number}.wav", "speaker": f"s{number // 2}", "emotion": emotion})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    config = {
        "corpora": [{"name": "manifest", "path": str(folder / "manifest.csv")}],
        "features": ["logmel64"],
        "models": [{"name": "keras", "params": {"network": "mine", "epochs": 1}}],
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
        "stress": {"stresses": {"gain": [0], "pad": [0.5]}},
    }
    (tmp_path / "mine.py").write_text(SMALL)
    outcome = run(config, output=tmp_path / "results", n_jobs=1, plugins=[tmp_path / "mine.py"])
    assert outcome.exit_code == 0
    found = table_of(outcome).query("stress == 'gain'").set_index("measure")["value"]
    assert (found["unchanged"], found["delta_uar"]) == (1, 0)
