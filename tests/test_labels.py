"""Names of speakers and emotions in two spellings, from the manifest to the certificate."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import emobench
from emobench.config.yaml import load_config
from emobench.corpora import CORPORA, CorpusSpec, Scan, Utterance
from emobench.corpora.labels import COMMON, look_alikes
from emobench.errors import ConfigError, CorpusError
from emobench.running.experiment import run_name
from emobench.running.planning import plan
from emobench.running.verification import verify

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture
def corpus(tiny_corpus, tmp_path):
    return Path(shutil.copytree(tiny_corpus, tmp_path / "corpus"))


def rewrite(corpus, change):
    """Give every row of the manifest to a function (number, row) that changes it."""
    with open(corpus / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        change(number, row)
    with open(corpus / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def respeak(old, new, *, every=2):
    """Return a change that gives every n-th recording of a speaker to a name."""

    def change(number, row):
        if row["speaker"] == old and not number % every:
            row["speaker"] = new

    return change


def relabel(old, new):
    def change(number, row):
        if row["emotion"] == old and not number % 2:
            row["emotion"] = new

    return change


def config_of(corpus, **corpus_keys):
    row = {"name": "manifest", "path": str(corpus / "manifest.csv"), "id": "mine", **corpus_keys}
    return {"corpora": [row], "models": ["dummy"], "protocols": ["loso"]}


def certificate_of(folder):
    return json.loads((folder / "run.json").read_text())["leakage_certificates"][0]


# --- what looks alike -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [
        ("03", "3"),
        ("3", "3.0"),
        ("3", "3,00"),
        ("03", "3.0"),
        ("Spk03", "spk03"),
        ("spk 03", "spk03"),
        ("spk-03", "Spk_3"),
        ("spk\u00a003", "spk03"),
        ("s\u200bpk03", "spk03"),
        ("spk03\ufeff", "spk03"),
        ("3.0\u200b", "3"),
        ("\uff13", "3"),
        ("\uff48\uff41\uff50\uff50\uff59", "happy"),
        ("Straße", "STRASSE"),
        ("zoe\u0308", "Zo\u00eb"),
        ("S01-02", "s1_2"),
        ("1-01", "1-1"),
        ("0-3", "3"),
        ("\ufb01ona", "Fiona"),
        ("an\u00adna", "Anna"),
        ("ann\ufe0fa", "anna"),
        ("Actor_1.", "actor 01"),
    ],
    ids=ascii,
)
def test_names_in_two_spellings_look_alike(pair):
    assert look_alikes(pair) == [tuple(sorted(pair))]


@pytest.mark.parametrize(
    "pair",
    [
        ("3", "30"),
        ("s1", "s10"),
        ("0", "00000001"),
        ("a", "b"),
        ("100", "1"),
        ("a+", "a"),
        ("?", "!"),
        ("anna", "hanna"),
    ],
    ids=ascii,
)
def test_different_names_do_not_look_alike(pair):
    assert look_alikes(pair) == []


@given(st.text("aS0123é", min_size=1, max_size=6), st.sampled_from(" -_.\u00a0\u200b\u2060'()/"), st.integers(0, 6))
def test_a_separator_anywhere_does_not_make_another_name(name, separator, place):
    assume(separator != "." or not name.endswith("0"))  # 10 and 1.0 are two names
    other = name[:place] + separator + name[place:]
    assert look_alikes([name, other]) or other == name


def test_every_corpus_has_the_common_names_of_emotions():
    assert {label for row in CORPORA.values() for label in row.emotions} <= set(COMMON)


# --- speakers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["S1", "s01", "s1.0", "s 1", "s\u200b1", "\uff53\uff11"], ids=ascii)
def test_one_speaker_in_two_spellings_is_refused_with_lines_and_both_ways_out(corpus, tmp_path, spelling):
    rewrite(corpus, respeak("s1", spelling))
    for act in (lambda: emobench.run(config_of(corpus), output=tmp_path / "r"), lambda: plan(config_of(corpus))):
        with pytest.raises(CorpusError, match="speakers whose names look alike") as caught:
            act()
    text = str(caught.value)
    assert f"{'s1'!r} (3 recordings, lines 9, 11, 13)" in text
    assert f"{spelling!r} (3 recordings, lines 8, 10, 12)" in text
    assert "`speakers: {" in text
    assert "`distinct: true`" in text
    with pytest.raises(CorpusError, match="look alike"):
        verify("manifest", path=corpus / "manifest.csv")


def test_speakers_are_united_by_the_config_and_the_certificate_says_so(corpus, tmp_path):
    rewrite(corpus, respeak("s1", "S1"))
    outcome = emobench.run(config_of(corpus, speakers={"S1": "s1"}), output=tmp_path / "r", n_jobs=1)
    assert set(outcome.leaderboard["n_speakers"]) == {4}
    certificate = certificate_of(outcome.folder)
    assert (certificate["look_alike_speakers"], certificate["distinct"]) == ([], False)


def test_speakers_that_are_different_people_stay_apart_and_the_certificate_says_so(corpus, tmp_path):
    rewrite(corpus, respeak("s1", "S1"))
    outcome = emobench.run(config_of(corpus, distinct=True), output=tmp_path / "r", n_jobs=1)
    assert set(outcome.leaderboard["n_speakers"]) == {5}
    certificate = certificate_of(outcome.folder)
    assert (certificate["look_alike_speakers"], certificate["distinct"]) == ([["S1", "s1"]], True)
    assert "S1 and s1" in (outcome.folder / "report.html").read_text()


def test_speakers_of_both_sexes_are_not_united(corpus):
    with pytest.raises(CorpusError, match="both sexes: 's0'"):
        plan(config_of(corpus, speakers={"s1": "s0"}))


@pytest.mark.parametrize("key", ["speakers", "labels"])
def test_a_name_that_the_corpus_has_not_is_no_rule(corpus, key):
    with pytest.raises(ConfigError, match=f"`{key}:` of corpus 'mine' names what the corpus has not") as caught:
        plan(config_of(corpus, **{key: {"S2" if key == "speakers" else "Sad": "x"}}))
    assert "Did you mean 's" in str(caught.value)


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [None, ["angry", "happy", "sad"]], ids=["all", "declared"])
@pytest.mark.parametrize("spelling", ["Sad", "SAD", "\uff53\uff41\uff44", "s\u200bad", "s\u00a0ad"], ids=ascii)
def test_one_label_in_two_spellings_is_refused_with_counts_lines_and_the_map(corpus, spelling, declared):
    rewrite(corpus, relabel("sad", spelling))
    with pytest.raises(CorpusError, match="labels that look alike") as caught:
        plan(config_of(corpus, emotions=declared))
    text = str(caught.value)
    assert f"{spelling!r} (4 recordings, lines 6, 12, 18, 24)" in text
    assert "'sad' (4 recordings, lines 7, 13, 19, 25)" in text
    assert f'`labels: {{{json.dumps(spelling, ensure_ascii=not spelling.isprintable())}: "sad"}}`' in text


def test_a_label_that_only_looks_like_a_declared_one_is_refused(corpus):
    rewrite(corpus, lambda _, row: row.update(emotion=row["emotion"].title()))
    with pytest.raises(CorpusError, match=r"'Angry' \(8 recordings, lines 2, 3, 8, 9, 14, …\) and 'angry' \(in `emo"):
        plan(config_of(corpus, emotions=["angry", "happy", "sad"]))


def test_labels_are_united_and_the_counts_before_and_after_recorded(corpus, tmp_path):
    rewrite(corpus, relabel("sad", "Trauer"))
    outcome = emobench.run(config_of(corpus, labels={"Trauer": "sad"}), output=tmp_path / "r", n_jobs=1)
    recorded = json.loads((outcome.folder / "run.json").read_text())["corpora"]["mine"]
    assert recorded["classes"] == ["angry", "happy", "sad"]
    assert recorded["labels"] == {
        "before": {"Trauer": 4, "angry": 8, "happy": 8, "sad": 4},
        "after": {"angry": 8, "happy": 8, "sad": 8},
    }
    told = "mine: labels before `labels:`: Trauer 4, angry 8, happy 8, sad 4; after: angry 8, happy 8, sad 8"
    assert told in outcome.remarks
    assert told in plan(config_of(corpus, labels={"Trauer": "sad"})).remarks


def test_rows_that_emotions_leave_out_are_counted_by_label(corpus, tmp_path):
    rewrite(corpus, relabel("sad", "boredom"))
    config = config_of(corpus, emotions=["angry", "happy"])
    outcome = emobench.run(config, output=tmp_path / "r", n_jobs=1)
    assert "mine: `emotions:` leaves out 8 of 24 recordings: boredom 4, sad 4" in outcome.remarks
    recorded = json.loads((outcome.folder / "run.json").read_text())["corpora"]["mine"]
    assert recorded["left_out"] == {"boredom": 4, "sad": 4}
    assert set(outcome.remarks) >= {remark for remark in plan(config).remarks if "leaves out" in remark}


def test_a_label_that_no_rule_covers_is_an_error_that_lists_it(monkeypatch, tmp_path):
    """A row with declared emotions takes others only where the config has a name for them."""
    labels = ["happy", "sad", "bored", "bored"]
    for number, _ in enumerate(labels):
        (tmp_path / f"{number}.wav").write_text(str(number))
    found = Scan(tuple(Utterance(f"{n}.wav", "own", f"s{n}", label) for n, label in enumerate(labels)))
    row = CorpusSpec(name="own", title="Own", scan=lambda root: found, emotions=("happy", "sad"))
    monkeypatch.setitem(CORPORA, "own", row)
    config = {"corpora": [{"name": "own", "root": str(tmp_path)}], "models": ["dummy"], "protocols": ["loso"]}
    with pytest.raises(CorpusError, match="2 recordings have the label 'bored', which is none of happy, sad"):
        plan({**config, "allow_missing_class": True})
    config["corpora"][0]["labels"] = {"bored": "boredom"}
    assert plan({**config, "allow_missing_class": True}).jobs
    with pytest.raises(
        ConfigError,
        match=r"must be an emotion of own. Got 'bored'. Did you mean 'boredom'\? Known: boredom, happy, sad",
    ):
        load_config({**config, "corpora": [{**config["corpora"][0], "emotions": ["bored", "sad"]}]})


# --- names of runs ----------------------------------------------------------------------------------------------------


def test_what_a_config_could_not_say_before_enters_no_name():
    (path,) = RESULTS.glob("baseline/*/run.json")
    run = json.loads(path.read_text())
    config = load_config(RESULTS.parent / "configs" / "ci.yaml")
    datasets = [SimpleNamespace(name=name, fingerprint=row["fingerprint"]) for name, row in run["corpora"].items()]
    assert run_name(config, datasets) == run["run"]
    written = {"on_conflict": "fail", "on_silence": "keep"}
    assert run_name(config.model_copy(update=written), datasets) == run["run"]
    assert run_name(config.model_copy(update={"on_silence": "leave_out"}), datasets) != run["run"]
    assert run_name(config.model_copy(update={"on_conflict": "drop"}), datasets) != run["run"]
    corpus = {"labels": {}, "speakers": {}, "distinct": False, "exclude": "known"}
    assert not corpus.keys() & config.model_dump()["corpora"][0].keys()


def test_excluded_lists_nothing_of_a_whole_corpus(corpus, tmp_path):
    outcome = emobench.run(config_of(corpus), output=tmp_path / "r", n_jobs=1)
    assert pd.read_csv(outcome.folder / "excluded.csv").empty
    assert certificate_of(outcome.folder)["dropped"] == []
