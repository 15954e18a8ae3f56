"""A whole run on a tiny corpus: what it writes, how it continues, what it refuses."""

import contextlib
import csv
import json
import shutil
from collections import Counter
from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.preprocessing import LabelEncoder

import emobench
from emobench import models
from emobench.config.yaml import load_config
from emobench.errors import ConfigError, CorpusError, DataError, HeldError, SplitError, StorageError
from emobench.execution.workers import Pool
from emobench.models import ModelSpec
from emobench.protocols import certificate
from emobench.reporter import Reporter
from emobench.reports import derivation
from emobench.results.run import read_run
from emobench.results.tables import LEADERBOARD
from emobench.running import experiment, planning, transport
from emobench.running.evaluation import FoldResult
from emobench.running.experiment import prepare
from emobench.running.planning import plan
from emobench.running.runner import extract, run
from emobench.running.transport import Depot
from emobench.statistics import description

TIMING = ["fit_s"]


def config_of(corpus, **changes):
    return {
        "corpora": [{"name": "manifest", "path": str(corpus / "manifest.csv")}],
        "models": ["svm", "dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
        **changes,
    }


def untimed(folder):
    """Return the leaderboard's bytes without the timing columns."""
    return pd.read_csv(folder / "leaderboard.csv", dtype=str).drop(columns=TIMING).to_csv()


@pytest.fixture(scope="module")
def finished(tiny_corpus, tmp_path_factory):
    """A finished run of every kind of table: two protocols, two repeats, models with and without probabilities."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOBENCH_STORE", str(folder / "store"))
        config = config_of(
            tiny_corpus,
            models=["svm", {"name": "xgboost", "params": {"n_estimators": 5, "subsample": 0.7}}, "dummy"],
            protocols=[{"name": "group-kfold", "n_splits": 2}, {"name": "random-kfold", "n_splits": 3}],
            repeats=2,
        )
        return run(config, output=folder / "results", n_jobs=1)


def test_run_writes_everything_that_the_design_lists(finished):
    names = {path.name for path in finished.folder.iterdir() if not path.name.startswith(".")}
    assert names >= {  # a later file breaks nothing
        *("scores.parquet", "scores.csv", "predictions.parquet", "predictions.csv"),
        *(
            "leaderboard.csv",
            "leaderboard.md",
            "pairs.csv",
            "folds.csv",
            "excluded.csv",
            "notes.csv",
            "run.json",
            "jobs",
            "models",
        ),
        *("intervals.csv", "slices.csv", "confusion.csv", "premium.csv", "premium.md", "report.html", "SHA256SUMS"),
    }
    assert finished.exit_code == 0
    assert not list(finished.folder.rglob("*.part"))


def test_leaderboard_columns_are_the_public_interface(finished):
    board = pd.read_csv(finished.folder / "leaderboard.csv")
    assert tuple(board.columns) == tuple(LEADERBOARD)
    assert board["latency_p50_ms"].isna().all()
    assert board["rank_group"].notna().all()
    assert board[["uar_low", "uar_high"]].isna().all(axis=None)  # four speakers are too few to say
    assert list(board["protocol"]) == ["group-kfold"] * 3 + ["random-kfold"] * 3
    assert list(board["waives"].fillna("")) == [""] * 3 + ["speaker"] * 3
    for _, part in board.groupby("protocol"):
        assert part["uar"].is_monotonic_decreasing
        assert list(part["rank"]) == list(part["uar"].rank(ascending=False, method="min"))
    assert set(board["corpus"]) == {"manifest"}


def test_leaderboard_is_recomputed_from_the_predictions_by_scikit_learn(finished):
    board = pd.read_csv(finished.folder / "leaderboard.csv").set_index(["protocol", "entry"])
    predictions = pd.read_parquet(finished.folder / "predictions.parquet")
    classes = ["angry", "happy", "sad"]
    for key, part in predictions.groupby(["protocol", "entry"]):
        repeats = [(p["y_true"], p["y_pred"]) for _, p in part.groupby("repeat")]
        uars = [recall_score(t, p, labels=classes, average="macro", zero_division=0) for t, p in repeats]
        assert board.loc[key, "uar"] == pytest.approx(np.mean(uars), abs=1e-6)
        assert board.loc[key, "seed_sd"] == pytest.approx(np.std(uars, ddof=1), abs=1e-6)
        assert board.loc[key, "war"] == pytest.approx(np.mean([accuracy_score(*r) for r in repeats]), abs=1e-6)
        f1 = [f1_score(*r, labels=classes, average="macro", zero_division=0) for r in repeats]
        assert board.loc[key, "macro_f1"] == pytest.approx(np.mean(f1), abs=1e-6)
        speakers = part.groupby(["speaker", "repeat"]).apply(
            lambda g: recall_score(g["y_true"], g["y_pred"], average="macro", zero_division=0)
        )
        assert board.loc[key, "worst_speaker_uar"] == pytest.approx(speakers.groupby("speaker").mean().min(), abs=1e-6)


def test_repeats_share_folds_and_differ_in_seeds(finished):
    predictions = pd.read_parquet(finished.folder / "predictions.parquet")
    part = predictions[(predictions["entry"] == "xgboost") & (predictions["protocol"] == "group-kfold")]
    first, second = (p.set_index("utterance") for _, p in part.groupby("repeat"))
    assert (first["fold"] == second["fold"].loc[first.index]).all()
    assert (first["p_sad"] != second["p_sad"].loc[first.index]).any()


def test_predictions_have_probabilities_only_of_models_that_give_them(finished):
    predictions = pd.read_parquet(finished.folder / "predictions.parquet")
    columns = ["p_angry", "p_happy", "p_sad"]
    assert predictions.loc[predictions["entry"] == "svm", columns].isna().all(axis=None)
    sums = predictions.loc[predictions["entry"] == "xgboost", columns].sum(axis=1)
    assert np.allclose(sums, 1, atol=1e-6)


def test_folds_csv_repeats_the_split(finished, tiny_corpus, tmp_path):
    path = finished.folder / "folds.csv"
    again = config_of(
        tiny_corpus,
        models=["dummy"],
        protocols=[{"name": "file", "path": str(path), "protocol": "group-kfold", "id": "again"}],
    )
    outcome = run(again, output=tmp_path)
    board = pd.read_csv(finished.folder / "leaderboard.csv")
    expected = board.loc[board["protocol"] == "group-kfold", "folds"].iloc[0]
    assert outcome.leaderboard["folds"].iloc[0] == expected


def test_run_json_proves_the_folds(finished):
    record = json.loads((finished.folder / "run.json").read_text())
    honest, random = record["leakage_certificates"]
    assert all(fold["shared_speakers"] == fold["shared_audio"] == 0 for fold in honest["folds"])
    assert random["waives"] == ["speaker"]
    assert record["jobs"] == {"total": 30, "finished": 30, "failed": 0}
    assert record["entries"]["xgboost"]["params"]["n_estimators"] == 5
    assert record["corpora"]["manifest"]["n_speakers"] == 4


def test_run_json_and_leaderboards_hold_no_path_of_this_machine(finished, tiny_corpus):
    for name in ("run.json", "leaderboard.csv", "leaderboard.md", "folds.csv"):
        text = (finished.folder / name).read_text()
        assert str(tiny_corpus.parent) not in text
        assert str(finished.folder.parent) not in text


def test_bundles_predict_what_they_were_fitted_on(finished, tiny_corpus):
    answer = emobench.predict(tiny_corpus / "s0/angry-0.wav", model=finished.folder / "models/xgboost")
    assert set(answer.probabilities) == {"angry", "happy", "sad"}
    assert answer.emotion == max(answer.probabilities, key=answer.probabilities.get)
    manifest = json.loads((finished.folder / "models/svm/manifest.json").read_text())
    assert [row["protocol"] for row in manifest["scores"]] == ["group-kfold", "random-kfold"]


# --- continuing -----------------------------------------------------------------------------------------------------


def test_second_run_reuses_everything_and_writes_the_same_bytes(tiny_corpus, tmp_path):
    config = config_of(tiny_corpus)
    first = run(config, output=tmp_path, n_jobs=1)
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    second = run(config, output=tmp_path, n_jobs=1)
    assert (second.n_computed, second.n_reused) == (0, 6)
    assert {path: path.read_bytes() for path in second.folder.rglob("*") if path.is_file()} == before


def test_finished_run_is_not_written_again_but_repaired(tiny_corpus, tmp_path, monkeypatch):
    config = config_of(tiny_corpus)
    first = run(config, output=tmp_path, n_jobs=1)
    expected = (first.folder / "leaderboard.csv").read_bytes()
    pd.testing.assert_frame_equal(run(config, output=tmp_path).leaderboard, first.leaderboard, check_dtype=False)
    (first.folder / "pairs.csv").unlink()
    (first.folder / "leaderboard.csv").write_text("damaged")
    assert run(config, output=tmp_path).exit_code == 0
    assert (first.folder / "leaderboard.csv").read_bytes() == expected


def test_one_worker_and_two_write_the_same_leaderboard(tiny_corpus, tmp_path):
    config = config_of(
        tiny_corpus,
        models=["svm", {"name": "xgboost", "params": {"n_estimators": 5}}, {"name": "mlp", "params": {"max_iter": 20}}],
    )
    boards = [untimed(run(config, output=tmp_path / str(n), n_jobs=n).folder) for n in (1, 2)]
    assert boards[0] == boards[1]


@pytest.mark.parametrize("damage", ["delete", "truncate", "flip"])
def test_run_continues_after_a_lost_or_damaged_job(tiny_corpus, tmp_path, damage):
    config = config_of(tiny_corpus)
    first = run(config, output=tmp_path, n_jobs=1)
    expected = untimed(first.folder)
    job = sorted((first.folder / "jobs").iterdir())[0]
    content = job.read_bytes()
    if damage == "delete":
        job.unlink()
    else:
        job.write_bytes(content[:50] if damage == "truncate" else content.replace(b"y_pred", b"y_prad"))
    second = run(config, output=tmp_path, n_jobs=1)
    assert (second.n_computed, second.n_reused) == (1, 5)
    assert untimed(second.folder) == expected


def test_force_computes_again(tiny_corpus, tmp_path):
    config = config_of(tiny_corpus)
    run(config, output=tmp_path, n_jobs=1)
    again = run(config, output=tmp_path, n_jobs=1, force=True, only=["svm"])
    assert (again.n_computed, again.n_reused) == (3, 2)


def test_only_runs_one_entry_and_keeps_the_run(tiny_corpus, tmp_path):
    config = config_of(tiny_corpus)
    first = run(config, output=tmp_path, n_jobs=1, only=["dummy"])
    assert list(first.leaderboard["entry"]) == ["dummy"]
    second = run(config, output=tmp_path, n_jobs=1)
    assert second.folder == first.folder
    assert sorted(second.leaderboard["entry"]) == ["dummy", "svm"]


def test_another_seed_corpus_or_parameter_is_another_run(tiny_corpus, tmp_path):
    def name(corpus=tiny_corpus, **changes):
        return plan(config_of(corpus, **changes), output=tmp_path).run

    copy = tmp_path / "copy"
    shutil.copytree(tiny_corpus, copy)
    same = name(copy)
    soundfile.write(copy / "s0/sad-0.wav", np.random.default_rng(5).uniform(-0.1, 0.1, 8000), 16000)
    names = [name(), name(seed=1), name(models=["svm"]), name(copy)]
    assert same == names[0]
    assert len(set(names)) == 4


def test_held_run_is_refused_with_its_holder(tiny_corpus, tmp_path):
    from filelock import FileLock

    config = config_of(tiny_corpus, models=["dummy"])
    folder = run(config, output=tmp_path, n_jobs=1).folder
    (folder / ".holder").write_text("process 1 on host there")
    with FileLock(folder / ".lock"), pytest.raises(HeldError, match="in use by process 1 on host there"):
        run(config, output=tmp_path, n_jobs=1)


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def failing_model(monkeypatch):
    """A model whose parameters pass every check and which cannot be fitted: more neighbours than utterances."""
    row = ModelSpec("knn", "k nearest", "sklearn.neighbors:KNeighborsClassifier", {"n_neighbors": 10_000})
    monkeypatch.setitem(models.MODELS, "knn", row)
    monkeypatch.setattr("emobench.running.runner.Pool", InProcess)


class InProcess:
    """Pool that runs in this process, where a test's models are known."""

    def __init__(self, n_workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, function, tasks):
        for position, task in enumerate(tasks):
            yield position, function(*task)


def test_failed_entry_is_a_row_with_its_error_and_is_tried_again(tiny_corpus, tmp_path, failing_model):
    config = config_of(tiny_corpus, models=["svm", "knn"])
    outcome = run(config, output=tmp_path)
    assert outcome.exit_code == 4
    board = pd.read_csv(outcome.folder / "leaderboard.csv").set_index("entry")
    assert board.loc["svm", "n_failed"] == 0
    assert board.loc["svm", "rank"] == 1
    assert board.loc["knn", "n_failed"] == 2
    assert board.loc["knn", ["rank", "uar", "war", "fit_s"]].isna().all()
    scores = pd.read_parquet(outcome.folder / "scores.parquet")
    errors = scores.loc[scores["entry"] == "knn", "error"]
    assert errors.str.contains("n_neighbors").all()
    assert any("n_neighbors" in remark for remark in outcome.remarks)
    logs = sorted((outcome.folder / "logs").iterdir())
    assert [log.name for log in logs] == [f"manifest+mfcc40+group-kfold+knn+repeat0+fold{i}.txt" for i in (0, 1)]
    assert "Traceback" in logs[0].read_text()
    again = run(config, output=tmp_path)
    assert (again.n_computed, again.n_reused) == (3, 3)


def test_all_jobs_failing_leaves_an_empty_leaderboard_and_exit_4(tiny_corpus, tmp_path, failing_model):
    outcome = run(config_of(tiny_corpus, models=["knn"]), output=tmp_path)
    assert outcome.exit_code == 4
    assert outcome.leaderboard["uar"].isna().all()


def test_run_refuses_to_keep_a_failed_job(tmp_path):
    from emobench.running.journal import write_finished

    with pytest.raises(ValueError, match="must not be kept"):
        write_finished(tmp_path, FoldResult("k", error="boom"))


# --- data -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tiny_corpus, tmp_path):
    """A copy of the tiny corpus that a test may change."""
    folder = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, folder)
    return folder


def rewrite(corpus, change):
    """Change the rows of the manifest."""
    with open(corpus / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = change(rows)
    with open(corpus / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_bad_audio_is_reported_at_once_and_stops_the_run(corpus, tmp_path):
    (corpus / "s0/sad-0.wav").write_bytes(b"")
    (corpus / "s1/sad-0.wav").write_bytes(b"<html>404</html>")
    soundfile.write(corpus / "s2/sad-0.wav", np.zeros(3), 16000)
    with pytest.raises(DataError, match="3 recordings cannot be used") as caught:
        run(config_of(corpus), output=tmp_path / "results", n_jobs=1)
    for path, reason in [("s0/sad-0", "empty"), ("s1/sad-0", "web page"), ("s2/sad-0", "at least 0.1 s")]:
        assert any(path in line and reason in line for line in str(caught.value).splitlines())
    (listed,) = (tmp_path / "results").glob("*/excluded.csv")
    assert len(pd.read_csv(listed)) == 3


def test_two_empty_files_are_empty_and_not_identical_audio_with_two_labels(corpus, tmp_path):
    for name in ("s0/sad-0.wav", "s1/angry-0.wav"):
        (corpus / name).write_bytes(b"")
    with pytest.raises(DataError, match="The file is empty"):
        run(config_of(corpus), output=tmp_path / "results", n_jobs=1)


def test_output_that_cannot_be_written_is_refused_before_audio_is_read(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "emobench.features.store.FeatureStore.extract", lambda *args, **kwargs: pytest.fail("audio was read")
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        run(config_of(tiny_corpus), output=tmp_path / "file" / "results")


def test_bad_audio_is_skipped_when_asked_and_every_row_says_so(corpus, tmp_path):
    whole = run(config_of(corpus, on_bad_audio="skip"), output=tmp_path / "results", n_jobs=1)
    (corpus / "s0/sad-0.wav").write_bytes(b"")
    soundfile.write(corpus / "s2/sad-0.wav", np.zeros(3), 16000)
    skipped = run(config_of(corpus, on_bad_audio="skip"), output=tmp_path / "results", n_jobs=1)
    assert list(skipped.leaderboard["n_excluded"]) == [2, 2]
    assert list(skipped.leaderboard["n_utterances"]) == [22, 22]
    assert skipped.folder != whole.folder
    assert len(pd.read_csv(skipped.folder / "excluded.csv")) == 2


def test_identical_audio_of_one_speaker_and_emotion_is_reported_and_kept_together(corpus, tmp_path):
    shutil.copy(corpus / "s0/sad-0.wav", corpus / "s0/sad-1.wav")
    config = config_of(corpus, protocols=[{"name": "random-kfold", "n_splits": 4}])
    outcome = run(config, output=tmp_path / "results", n_jobs=1)
    assert any("identical audio under two names: manifest/s0/sad-0.wav" in remark for remark in outcome.remarks)
    folds = pd.read_csv(outcome.folder / "folds.csv").set_index("utterance")["fold"]
    assert folds["manifest/s0/sad-0.wav"] == folds["manifest/s0/sad-1.wav"]


def test_identical_audio_in_another_format_is_found_by_its_samples(corpus, tmp_path):
    samples, sr = soundfile.read(corpus / "s0/sad-0.wav", dtype="int16")
    soundfile.write(corpus / "s0/copy.flac", samples, sr)
    rewrite(corpus, lambda rows: [*rows, {**rows[0], "path": "s0/copy.flac", "emotion": "sad"}])
    outcome = run(config_of(corpus), output=tmp_path / "results", n_jobs=1)
    assert any("copy.flac" in remark and "sad-0.wav" in remark for remark in outcome.remarks)


@pytest.mark.parametrize("other", ["s0/angry-0.wav", "s1/sad-0.wav"], ids=["emotion", "speaker"])
def test_identical_audio_with_two_labels_is_refused(corpus, tmp_path, other):
    shutil.copy(corpus / "s0/sad-0.wav", corpus / other)
    with pytest.raises(CorpusError, match="Identical audio must have one speaker and one emotion"):
        run(config_of(corpus), output=tmp_path / "results", n_jobs=1)


def only_speakers(*speakers):
    return lambda rows: [row for row in rows if row["speaker"] in speakers]


@pytest.mark.parametrize(
    "change, options, error, message",
    [
        (only_speakers("s0"), {}, SplitError, "Corpus 'manifest' has 1"),
        (only_speakers("s0", "s1"), {"n_splits": 3}, SplitError, r"number of speakers \(2\). Got 3"),
        (lambda rows: [r for r in rows if r["emotion"] == "sad"], {}, ConfigError, "at least 2 emotions"),
        (
            lambda rows: [r for r in rows if r["emotion"] != "sad" or r["speaker"] == "s0"],
            {},
            SplitError,
            "no training utterance of sad",
        ),
        (lambda rows: list({r["emotion"]: r for r in rows}.values()), {}, SplitError, "at least 2 speakers"),
    ],
    ids=["D6 one speaker", "D7 few speakers", "D10 one class", "D8 class of one speaker", "D12 one clip a class"],
)
def test_impossible_split_is_refused_before_audio_is_read(
    corpus, tmp_path, monkeypatch, change, options, error, message
):
    monkeypatch.setattr(
        "emobench.features.store.FeatureStore.extract", lambda *args, **kwargs: pytest.fail("audio was read")
    )
    rewrite(corpus, change)
    config = config_of(corpus, protocols=[{"name": "group-kfold", "n_splits": 2, **options}])
    for attempt in (run, plan):
        with pytest.raises(error, match=message) as caught:
            attempt(config, output=tmp_path / "results")
        assert caught.value.exit_code == 2


def test_class_of_one_speaker_is_kept_when_allowed(corpus, tmp_path):
    rewrite(corpus, lambda rows: [r for r in rows if r["emotion"] != "sad" or r["speaker"] == "s0"])
    outcome = run(config_of(corpus, allow_missing_class=True), output=tmp_path / "results", n_jobs=1)
    assert any("no training utterance of sad" in remark for remark in outcome.remarks)
    scores = pd.read_parquet(outcome.folder / "scores.parquet")
    lacking = scores[(scores["metric"] == "uar") & scores["value"].isna()]
    assert (lacking["error"] == "no test utterance of 1 of the 3 declared classes").all()
    assert len(lacking) == 2
    assert outcome.leaderboard["uar"].notna().all()


def test_declared_emotion_without_utterances_is_refused(tiny_corpus, tmp_path):
    config = config_of(tiny_corpus)
    config["corpora"][0]["emotions"] = ["sad", "joyful"]
    with pytest.raises(ConfigError, match=r"has none of joyful; it has angry \(8\)"):
        run(config, output=tmp_path)


# --- plan -----------------------------------------------------------------------------------------------------------


def test_plan_counts_and_writes_nothing(tiny_corpus, tmp_path):
    config = config_of(tiny_corpus)
    before = plan(config, output=tmp_path / "results")
    assert (len(before.jobs), len(before.finished), before.n_to_extract) == (6, 0, 24)
    assert before.estimate_s > 0
    assert not (tmp_path / "results").exists()
    outcome = run(config, output=tmp_path / "results", n_jobs=1)
    after = plan(config, output=tmp_path / "results")
    assert (after.run, len(after.finished), after.n_to_extract) == (outcome.folder.name, 6, 0)
    assert after.estimate_s == 0


def test_plan_without_recorded_times_is_calibrated_on_this_machine(tiny_corpus, tmp_path, monkeypatch):
    from emobench.running import planning

    assert 0.1 <= planning._calibrate() <= 10

    def estimate_s(factor):
        monkeypatch.setattr(planning, "_calibrate", lambda: factor)
        config = config_of(tiny_corpus, models=["mlp"], repeats=50)
        return plan(config, output=tmp_path / "results", n_jobs=1).estimate_s - planning._START_S

    preparation_s = 24 * planning._EXTRACTION_S
    assert estimate_s(4.0) - preparation_s == pytest.approx(4 * (estimate_s(1.0) - preparation_s))


def test_tuned_entries_stand_beside_the_others_unless_they_have_no_trials(tiny_corpus, tmp_path):
    config = config_of(
        tiny_corpus,
        models=["svm", {"name": "svm", "id": "svm-c1", "params": {"C": 1}}, "xgboost", "dummy"],
        tuning={"n_trials": 2, "inner_splits": 2, "per_model": {"xgboost": 0, "svm-c1": 5}},
    )
    trials = {job.entry: job.tuning and job.tuning.n_trials for job in plan(config, output=tmp_path).jobs}
    assert trials == {
        **{"svm": None, "svm-tuned": 2, "svm-c1": None, "svm-c1-tuned": 5},
        **{"xgboost": None, "dummy": None},
    }


def test_work_of_a_plan_grows_no_faster_than_its_entries(tiny_corpus, tmp_path, monkeypatch):
    """N36."""
    few, many = (count_calls(config_of(tiny_corpus), n, tmp_path, monkeypatch) for n in (10, 100))
    assert many["parameters"] <= 10 * few["parameters"]
    assert many["rows_fingerprint"] == few["rows_fingerprint"]


def count_calls(config, n_entries, output, monkeypatch):
    """Return how often a plan of different entries asks for a model's parameters, and hashes the rows of a fold."""
    calls = Counter()

    def counted(function):
        def call(*arguments):
            calls[function.__name__] += 1
            return function(*arguments)

        return call

    rows = [{"name": "svm", "id": f"e{number}", "params": {"C": number + 1}} for number in range(n_entries)]
    with monkeypatch.context() as patch:
        for module, name in (
            (models, "parameters"),
            (experiment, "rows_fingerprint"),
            (certificate, "rows_fingerprint"),
        ):
            patch.setattr(module, name, counted(getattr(module, name)))
        assert len({job.entry for job in plan({**config, "models": rows}, output=output).jobs}) == n_entries
    return calls


def test_plan_says_what_the_statistics_of_many_speakers_take(tiny_corpus, tmp_path, monkeypatch):
    """N39."""
    config = config_of(tiny_corpus, protocols=["loso", {"name": "group-kfold", "n_splits": 2}])
    assert not [remark for remark in plan(config, output=tmp_path).remarks if "statistics" in remark]
    monkeypatch.setattr(description, "cost", lambda *_, **__: (21.0, 1.5e9))
    [remark] = [remark for remark in plan(config, output=tmp_path).remarks if "statistics" in remark]
    assert remark.endswith("statistics of 4 speakers take about 42 s and 1.5 GB")


def test_plan_says_what_large_tables_of_features_take(tiny_corpus, tmp_path, monkeypatch):
    """N39."""
    config = config_of(tiny_corpus)
    before = plan(config, output=tmp_path)
    assert not [remark for remark in before.remarks if "twice that in memory" in remark]
    n_bytes = 4 * 40 * len(load_rows(tiny_corpus))
    monkeypatch.setattr(planning, "_LARGE_TABLE_BYTES", n_bytes)
    monkeypatch.setattr(transport, "SMALL_BYTES", n_bytes - 1)
    found = plan(config, output=tmp_path)
    assert [r.partition(": ")[0] for r in found.remarks if "twice that in memory" in r] == ["manifest · mfcc40"]
    assert found.disk_bytes - before.disk_bytes == n_bytes


def load_rows(corpus):
    return list(csv.DictReader((corpus / "manifest.csv").read_text().splitlines()))


def test_large_tables_reach_workers_in_files_that_are_gone_afterwards(tiny_corpus, tmp_path, monkeypatch):
    plain = run(config_of(tiny_corpus), output=tmp_path / "plain")
    monkeypatch.setattr(transport, "SMALL_BYTES", 0)
    seen = []
    give = Depot.offer

    def offer(self, table):
        offered = give(self, table)
        seen.extend(path.name for path in self.folder.glob(".table-*"))
        return offered

    monkeypatch.setattr(Depot, "offer", offer)
    mapped = run(config_of(tiny_corpus), output=tmp_path / "mapped")
    assert len(seen) == 2
    assert not [path for path in mapped.folder.rglob("*") if path.name in seen]
    assert untimed(mapped.folder) == untimed(plain.folder)


def test_jobs_of_a_fold_share_its_rows_so_that_they_can_travel_once(tiny_corpus):
    planned = prepare(load_config(config_of(tiny_corpus)), reporter=Reporter())
    jobs, fits = planned.jobs(), planned.fits()
    assert len(jobs) == 4
    assert len(fits) == 2
    assert len({id(job.train) for job in jobs}) == len({id(job.test) for job in jobs}) == 2
    assert len({id(job.train) for job in fits}) == 1


def test_progress_of_features_counts_what_the_store_has(tiny_corpus, tmp_path):
    folder, told = shutil.copytree(tiny_corpus, tmp_path / "corpus"), []
    manifest = folder / "manifest.csv"
    whole = manifest.read_text()
    rows = load_rows(folder)

    class Listener(Reporter):
        @contextlib.contextmanager
        def track(self, title, total):
            yield lambda n_done, *_, **__: told.append((n_done, total))

    left_out = [row["path"] for row in rows if row["speaker"] == rows[0]["speaker"]]
    n_some = len(rows) - len(left_out)
    manifest.write_text("".join(line for line in whole.splitlines(True) if line.split(",")[0] not in left_out))
    extract(config_of(folder), n_jobs=1, reporter=Listener())
    assert (told[0], told[-1]) == ((0, n_some), (n_some, n_some))
    told.clear()
    manifest.write_text(whole)
    extract(config_of(folder), n_jobs=1, reporter=Listener())
    assert (told[0], told[-1]) == ((n_some, len(rows)), (len(rows), len(rows)))


def test_plan_of_a_corpus_that_is_not_here_says_what_stands_in(tmp_path):
    config = {"corpora": [{"name": "ravdess", "when_missing": "synthetic"}], "models": ["dummy"]}
    planned = plan(config, output=tmp_path)
    assert len(planned.jobs) == 7
    assert "the synthetic corpus stands in for it" in planned.remarks[0]


def test_corpus_that_is_not_here_is_an_error_by_default(tmp_path):
    with pytest.raises(CorpusError, match="Corpus 'ravdess' is not on this machine"):
        run({"corpora": ["ravdess"], "models": ["dummy"]}, output=tmp_path)


def test_committed_configs_can_be_read(pytestconfig):
    paths = sorted((pytestconfig.rootpath / "configs").glob("*.yaml"))
    assert paths
    for path in paths:
        assert load_config(path).models


# --- one experiment, one encoder, one writing -----------------------------------------------------------------------


def test_one_experiment_serves_plan_and_run(tiny_corpus, tmp_path):
    config = load_config(config_of(tiny_corpus, tuning={"n_trials": 2, "inner_splits": 2}))
    planned = prepare(config, reporter=Reporter())
    with Pool(1) as workers:
        real = prepare(config, reporter=Reporter(), pool=lambda: workers)
    assert planned.name == real.name
    assert [job.key for job in planned.jobs()] == [job.key for job in real.jobs()]
    assert planned.tables == {}
    assert set(real.tables) == {("manifest", "mfcc40")}
    with pytest.raises(FrozenInstanceError):
        real.remarks = ()


def test_one_label_encoder_gives_codes_and_labels(tiny_corpus, tmp_path):
    config = load_config(config_of(tiny_corpus))
    [dataset] = prepare(config, reporter=Reporter()).datasets
    assert isinstance(dataset.encoder, LabelEncoder)
    assert dataset.encoder is dataset.encoder
    assert tuple(dataset.encoder.classes_) == dataset.classes
    assert tuple(dataset.encoder.inverse_transform(dataset.y)) == dataset.labels.emotions


def test_kill_while_latencies_are_measured_leaves_a_whole_leaderboard(tiny_corpus, tmp_path, monkeypatch):
    def kill(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("emobench.prediction.latency.measure_run", kill)
    with pytest.raises(KeyboardInterrupt):
        run(config_of(tiny_corpus, latency={}), output=tmp_path, n_jobs=1)
    [folder] = [path.parent for path in tmp_path.glob("*/run.json")]
    assert derivation.is_current(folder)
    assert set(pd.read_csv(folder / "leaderboard.csv")["entry"]) == {"svm", "dummy"}


def test_derived_files_are_written_only_where_they_changed(finished, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    record, written = read_run(folder), []
    monkeypatch.setattr(derivation, "write_bytes", lambda path, content: written.append(path.name))
    derivation.write_derived(folder, record)
    assert written == []
    (folder / "pairs.csv").write_text("spoilt")
    derivation.write_derived(folder, record)
    assert written == ["pairs.csv"]


def test_output_beside_a_manifest_that_names_nothing_in_it_is_fine(corpus, monkeypatch):
    monkeypatch.chdir(corpus)
    outcome = run(config_of(corpus), n_jobs=1)
    assert outcome.folder.parent == corpus / "results"
    with pytest.raises(ConfigError, match="must not be inside a corpus"):
        run(config_of(corpus), output=corpus / "s0", n_jobs=1)
