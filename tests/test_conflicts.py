"""Silence, identical audio with two labels, and recordings that a config names: what each is called, and left out."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import SR

import emobench
from emobench.cli.main import main
from emobench.config.yaml import load_config
from emobench.corpora import CORPORA, get_corpus, manifest
from emobench.errors import ConfigError, CorpusError, DataError
from emobench.running.planning import plan
from emobench.running.verification import verify

SILENT = ("s0/sad-0.wav", "s1/angry-0.wav")  # two speakers, two labels


@pytest.fixture
def corpus(tiny_corpus, tmp_path):
    return Path(shutil.copytree(tiny_corpus, tmp_path / "corpus"))


@pytest.fixture
def silent(corpus):
    """The corpus with two recordings of the same digital silence."""
    for name in SILENT:
        soundfile.write(corpus / name, np.zeros(SR // 4), SR)
    return corpus


@pytest.fixture
def contradictory(corpus):
    """The corpus with one recording under two labels, in two formats."""
    samples, sr = soundfile.read(corpus / "s0/sad-0.wav", dtype="int16")
    (corpus / "s0/angry-0.wav").unlink()
    soundfile.write(corpus / "s0/angry-0.flac", samples, sr)
    text = (corpus / "manifest.csv").read_text()
    (corpus / "manifest.csv").write_text(text.replace("s0/angry-0.wav", "s0/angry-0.flac"))
    return corpus


def config_of(corpus, *, exclude="known", **keys):
    row = {"name": "manifest", "path": str(corpus / "manifest.csv"), "id": "mine", "exclude": exclude}
    return {"corpora": [row], "models": ["dummy"], "protocols": ["loso"], **keys}


def carry_out(corpus, **keys):
    return emobench.run(config_of(corpus, **keys), output=corpus.parent / "results", n_jobs=1)


def dropped(outcome):
    (certificate,) = json.loads((outcome.folder / "run.json").read_text())["leakage_certificates"]
    return {item["utterance"]: item["reason"] for item in certificate["dropped"]}


def test_silence_with_two_labels_is_called_silence_with_every_way_out(silent):
    for act in (carry_out, lambda corpus: plan(config_of(corpus))):
        with pytest.raises(CorpusError, match="Identical audio must have one speaker and one emotion") as caught:
            act(silent)
        text = str(caught.value)
        assert "mine/s0/sad-0.wav (speaker s0, sad) = mine/s1/angry-0.wav (speaker s1, angry): nothing but" in text
        assert all(way in text for way in ("on_silence: leave_out", "on_conflict: drop", "exclude: [PATH]"))


@pytest.mark.parametrize(
    ("keys", "left_out"),
    [
        ({"on_silence": "leave_out"}, SILENT),
        ({"on_conflict": "drop"}, SILENT),
        ({"exclude": [SILENT[1]]}, SILENT[1:]),
        ({"exclude": [f"mine/{SILENT[0]}"]}, SILENT[:1]),
    ],
    ids=["silence", "conflict", "path", "id"],
)
def test_each_way_out_of_silence_is_listed_by_certificate_and_csv(silent, keys, left_out):
    outcome = carry_out(silent, **keys)
    assert set(dropped(outcome)) == {f"mine/{path}" for path in left_out}
    assert set(outcome.leaderboard["n_utterances"]) == {24 - len(left_out)}
    assert set(outcome.leaderboard["n_excluded"]) == {len(left_out)}
    listed = pd.read_csv(outcome.folder / "excluded.csv")
    assert sorted(listed["path"]) == sorted(str(silent / path) for path in left_out)
    assert any("left out" in remark for remark in outcome.remarks)
    assert plan(config_of(silent, **keys)).jobs


def test_one_silent_recording_is_kept_left_out_or_refused_as_the_config_says(corpus):
    soundfile.write(corpus / SILENT[0], np.zeros(SR // 4), SR)
    kept = carry_out(corpus)
    assert (set(kept.leaderboard["n_utterances"]), dropped(kept)) == ({24}, {})
    assert any("nothing but digital silence" in remark for remark in kept.remarks)
    without = carry_out(corpus, on_silence="leave_out")
    assert dropped(without) == {f"mine/{SILENT[0]}": "nothing but digital silence (on_silence: leave_out)"}
    assert without.folder != kept.folder
    with pytest.raises(DataError, match=r"1 recordings of corpus 'mine' are nothing but digital silence.*\n.*sad-0"):
        carry_out(corpus, on_silence="fail", on_bad_audio="skip")


def test_the_old_key_of_silence_is_answered_with_the_new_one(corpus):
    with pytest.raises(ConfigError, match="unknown key. This is now `on_silence: keep`, `leave_out` or `fail`"):
        load_config(config_of(corpus, audio={"max_silence": "reject"}))


def test_conflicts_are_dropped_with_all_members_and_the_certificate_names_them(contradictory):
    with pytest.raises(CorpusError, match=r"mine/s0/angry-0.flac \(speaker s0, angry\) = mine/s0/sad-0.wav") as caught:
        carry_out(contradictory)
    assert "silence" not in str(caught.value)
    outcome = carry_out(contradictory, on_conflict="drop")
    assert set(dropped(outcome)) == {"mine/s0/angry-0.flac", "mine/s0/sad-0.wav"}
    assert all("(speaker s0, sad)" in reason for reason in dropped(outcome).values())
    assert set(outcome.leaderboard["n_utterances"]) == {22}


def test_verify_of_a_conflict_exits_3_and_names_both_labels(contradictory, capsys):
    with pytest.raises(SystemExit) as left:
        main(["data", "verify", "manifest", "--path", str(contradictory / "manifest.csv")])
    assert left.value.code == 3
    said = capsys.readouterr().err
    assert "manifest/s0/angry-0.flac (speaker s0, angry) = manifest/s0/sad-0.wav (speaker s0, sad)" in said
    assert len(verify("manifest", path=contradictory / "manifest.csv").conflicts) == 1


def test_verify_calls_silence_silence(silent):
    (conflict,) = verify("manifest", path=silent / "manifest.csv").conflicts
    assert conflict.endswith("nothing but digital silence")


def test_a_path_that_the_corpus_has_not_is_not_excluded(corpus):
    with pytest.raises(ConfigError, match="recordings that it has not:\n.*s0/sad-9.wav'.*Did you mean 's0/sad-"):
        plan(config_of(corpus, exclude=["s0/sad-9.wav"]))


@pytest.mark.parametrize("given", ["all", 3, ["a", 3], [], [""]], ids=str)
def test_exclude_takes_known_none_or_paths(corpus, given):
    if given == []:
        assert load_config(config_of(corpus, exclude=given)).corpora[0].exclude == []
    else:
        with pytest.raises(ConfigError, match=r"corpora\[0\].exclude: must be known, none, or a list of paths"):
            load_config(config_of(corpus, exclude=given))


def test_known_defects_are_left_out_unless_the_config_says_none(corpus, monkeypatch):
    defects = {"known": {SILENT[0]: "has no sound", "s9/gone.wav": "not in this copy"}, "older": {}}

    def scan(root, *, path):
        return replace(manifest.scan(root, path=path), defects=defects)

    row = replace(get_corpus("manifest"), scan=scan, exclusions=("older",))
    monkeypatch.setitem(CORPORA, "manifest", row)
    assert plan(config_of(corpus)).remarks == ("mine: left out 1 recordings: has no sound (exclude: known)",)
    assert plan(config_of(corpus, exclude="none")).remarks == ()
    assert plan(config_of(corpus, exclude="older")).remarks == ()
    with pytest.raises(ConfigError, match="exclude: must be known, none, older, or a list of paths .*'old'.*'older'"):
        load_config(config_of(corpus, exclude="old"))


def test_everything_silent_is_no_corpus(corpus):
    with open(corpus / "manifest.csv", newline="") as file:
        for row in csv.DictReader(file):
            soundfile.write(corpus / row["path"], np.zeros(SR // 4), SR)
    with pytest.raises(DataError, match="has no recordings left"):
        carry_out(corpus, on_silence="leave_out")
