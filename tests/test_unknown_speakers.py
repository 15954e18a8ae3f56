"""Corpora of few speakers, and of speakers whom nobody knows."""

import csv
import json

import pandas as pd
import pytest
from conftest import write_corpus
from corpus_trees import tess_names, write_tree

from emobench.config.yaml import validate_config
from emobench.corpora.manifest import scan
from emobench.errors import ConfigError, SplitError
from emobench.reporter import Reporter
from emobench.running.experiment import prepare
from emobench.running.runner import run


@pytest.fixture(scope="module")
def unknown(tmp_path_factory):
    """Folder of a tiny corpus whose manifest has no column `speaker`."""
    folder = write_corpus(tmp_path_factory.mktemp("unknown"))
    rows = list(csv.DictReader((folder / "manifest.csv").open(encoding="utf-8")))
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "emotion"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def config_of(folder, **settings):
    corpus = {"name": "manifest", "path": str(folder / "manifest.csv")}
    return validate_config({"corpora": [corpus], "models": ["svm", "dummy"], **settings}, folder=folder)


def run_of(folder, tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(f"corpora: [{{name: manifest, path: {folder / 'manifest.csv'}}}]\nmodels: [svm, dummy]\n{text}\n")
    return run(path, output=tmp_path / "results", n_jobs=1, reporter=Reporter())


def test_manifest_without_speakers_is_read_with_a_remark(unknown):
    found = scan(path=unknown / "manifest.csv")
    assert {utterance.speaker for utterance in found.utterances} == {""}
    assert "no column 'speaker': speakers are unknown" in found.remarks


@pytest.mark.parametrize("protocol", ["loso", "group-kfold", "sex-out", "statement-out", "intensity-out"])
def test_protocol_that_keeps_speakers_apart_refuses_unknown_ones(unknown, protocol):
    with pytest.raises(
        SplitError, match=f"does not tell who speaks, so '{protocol}' cannot.*take random-kfold or file"
    ):
        prepare(config_of(unknown, protocols=[protocol]), reporter=Reporter())


def test_every_result_says_that_speakers_are_unknown(unknown, tmp_path):
    outcome = run_of(unknown, tmp_path, "protocols: [{name: random-kfold, n_splits: 3}]")
    board = outcome.leaderboard
    assert set(board["waives"]) == set(pd.read_csv(outcome.folder / "scores.csv")["waives"]) == {"speakers unknown"}
    assert board[["uar_low", "uar_high", "worst_speaker_uar"]].isna().all(axis=None)
    assert board["uar"].notna().all()
    assert set(board["n_speakers"]) == {0}
    [certificate] = json.loads((outcome.folder / "run.json").read_text())["leakage_certificates"]
    assert certificate["is_certified"] is False
    assert not any("shared_speakers" in fold for fold in certificate["folds"])
    intervals = pd.read_csv(outcome.folder / "intervals.csv")
    assert set(intervals["reason"]) >= {"an interval is over speakers, who are unknown"}
    page = (outcome.folder / "report.html").read_text()
    assert "<b>Speakers unknown.</b>" in page
    assert "never heard" not in page
    assert "speaker" not in set(pd.read_csv(outcome.folder / "slices.csv")["slice"])


def test_speakers_that_a_corpus_names_can_be_passed_over(tiny_corpus, tmp_path):
    path = tmp_path / "config.yaml"
    corpus = f"{{name: manifest, path: {tiny_corpus / 'manifest.csv'}, speakers: unknown, labels: {{happy: glad}}}}"
    path.write_text(f"corpora: [{corpus}]\nmodels: [dummy]\nprotocols: [{{name: random-kfold, n_splits: 3}}]\n")
    outcome = run(path, output=tmp_path / "results", n_jobs=1, reporter=Reporter())
    assert set(outcome.leaderboard["waives"]) == {"speakers unknown"}
    page = (outcome.folder / "report.html").read_text()
    assert "Labels before <code>labels:</code>: angry 8, happy 8, sad 8; after: angry 8, glad 8, sad 8." in page


def test_speakers_must_be_unknown_or_spellings(tiny_corpus):
    corpus = {"name": "manifest", "path": str(tiny_corpus / "manifest.csv"), "speakers": "none"}
    with pytest.raises(ConfigError, match="must be unknown, or give one spelling of a speaker another. Got 'none'"):
        validate_config({"corpora": [corpus], "models": ["dummy"]}, folder=tiny_corpus)


def test_file_of_folds_splits_unknown_speakers(unknown, tmp_path):
    first = run_of(unknown, tmp_path, "protocols: [{name: random-kfold, n_splits: 3}]")
    protocol = f"protocols: [{{name: file, path: {first.folder / 'folds.csv'}}}]"
    assert set(run_of(unknown, tmp_path, protocol).leaderboard["waives"]) == {"speakers unknown"}


def test_page_of_tess_says_what_a_random_split_tests(tmp_path):
    names = [name for name in tess_names() if name.split("_")[1] in ("bak", "bal", "bam")]
    write_tree(tmp_path / "tess", [f"{name}.wav" for name in names])
    (tmp_path / "tess.yaml").write_text("corpora: [{name: tess, root: tess}]\nmodels: [dummy]\nprotocols: [loso]\n")
    page = (
        run(tmp_path / "tess.yaml", output=tmp_path, n_jobs=1, reporter=Reporter()).folder / "report.html"
    ).read_text()
    assert "Both speakers say every word with every emotion, so a random split tests words and voices" in page
    assert "With 2 speakers there is no interval." in page


def test_few_speakers_have_their_scores_one_by_one_and_no_interval(tiny_corpus, tmp_path):
    outcome = run_of(tiny_corpus, tmp_path, "protocols: [loso]")
    assert outcome.leaderboard["uar_low"].isna().all()
    page = (outcome.folder / "report.html").read_text()
    assert "With 4 speakers there is no interval. These are the scores, one by one." in page
    slices = pd.read_csv(outcome.folder / "slices.csv")
    svm = slices[(slices["entry"] == "svm") & (slices["slice"] == "speaker") & (slices["statistic"] == "uar")]
    for value in svm["uar"]:
        assert f"{value:.3f}" in page
