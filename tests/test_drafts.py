"""Manifests from what others have, and configs from what somebody has."""

import json

import pandas as pd
import pytest
from conftest import write_corpus
from corpus_trees import emodb_names, savee_names, tess_names, write_tree

from emobench.cli.main import main
from emobench.config.yaml import load_config
from emobench.corpora.drafts import from_audformat, from_emobox, from_names, guess, pairs
from emobench.corpora.manifest import scan
from emobench.errors import ConfigError, CorpusError
from emobench.results.run import load_results

EMOVO = r"(?P<emotion>dis|gio|neu|pau|rab|sor|tri)-(?P<speaker>(?P<sex>[fm])[1-3])-(?P<statement>\w+)"
EMOVO_LABELS = {"gio": "happy", "pau": "fearful", "rab": "angry", "sor": "surprised", "tri": "sad"}


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def emobench(*arguments):
    """Run a command; return its exit code."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code or 0


# --- a pattern --------------------------------------------------------------------------------------------------------


def test_pattern_reads_names_and_labels_get_their_common_names(tmp_path):
    touch(tmp_path, "f1/gio-f1-b1.wav", "m2/dis-m2-l1.wav", "m2/neu-m2-l1.wav", "notes.wav")
    draft = from_names(tmp_path, EMOVO, labels=EMOVO_LABELS)
    assert draft.text().splitlines() == [
        "path,speaker,emotion,sex,statement",
        "f1/gio-f1-b1.wav,f1,happy,female,b1",
        "m2/dis-m2-l1.wav,m2,disgust,male,l1",
        "m2/neu-m2-l1.wav,m2,neutral,male,l1",
    ]
    assert "1 recordings do not match and are left out: notes.wav" in draft.remarks
    assert "labels renamed: dis → disgust (1), gio → happy (1), neu → neutral (1)" in draft.remarks
    assert "no recording has the label pau, rab, sor, tri" in draft.remarks


def test_pattern_may_match_a_whole_path(tmp_path):
    touch(tmp_path, "anna/Angry/1.wav", "ben/sad/2.wav")
    rows = from_names(tmp_path, r"(?P<speaker>\w+)/(?P<emotion>\w+)/\d").rows
    assert [(row["speaker"], row["emotion"]) for row in rows] == [("anna", "angry"), ("ben", "sad")]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "is no regular expression"),
        (r"(?P<speaker>\d+)", r"has no group \(\?P<emotion>…\)"),
        (r"(?P<emotion>\w)(?P<age>\d)", "has the group 'age'"),
    ],
)
def test_pattern_that_cannot_be_used_is_refused(tmp_path, pattern, says):
    with pytest.raises(ConfigError, match=says):
        from_names(touch(tmp_path, "a.wav"), pattern)


def test_pattern_that_matches_nothing_shows_names(tmp_path):
    with pytest.raises(CorpusError, match="No recording matches .* has 1, such as 'a.wav'"):
        from_names(touch(tmp_path, "a.wav"), r"(?P<emotion>\d)")


@pytest.mark.parametrize("text", ["gio", "=happy", "gio="])
def test_label_without_two_sides_is_refused(text):
    with pytest.raises(ConfigError, match="CODE=EMOTION"):
        dict(pairs([text]))


# --- audformat --------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path):
    """A database of audformat: emotions and splits in one table, speakers in another, their sexes in the header."""
    touch(tmp_path, "wav/03a01Fa.wav", "wav/08a01Wa.wav")
    (tmp_path / "db.emotion.csv").write_text(
        "file,emotion,emotion.confidence,split\nwav/03a01Fa.wav,happiness,0.9,train\nwav/08a01Wa.wav,anger,,test\n"
    )
    (tmp_path / "db.files.csv").write_text(
        "file,speaker,duration\nwav/03a01Fa.wav,3,0 days\nwav/08a01Wa.wav,8,0 days\n"
    )
    (tmp_path / "db.yaml").write_text(
        "schemes:\n  speaker:\n    labels:\n      3: {gender: male, age: 31}\n      8: {gender: female}\n"
    )
    return tmp_path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_audformat_tables_are_joined(database, kind):
    tables = sorted(database.glob("db.*.csv"))
    if kind == "parquet":
        for table in tables:
            pd.read_csv(table).set_index("file").to_parquet(table.with_suffix(".parquet"))
        tables = sorted(database.glob("db.*.parquet"))
    draft = from_audformat(tables, database)
    assert draft.text().splitlines() == [
        "path,speaker,emotion,sex,split",
        "wav/03a01Fa.wav,3,happy,male,train",
        "wav/08a01Wa.wav,8,angry,female,test",
    ]
    assert "column 'split' is kept, and passed over by runs" in draft.remarks


def test_audformat_segments_are_refused(database):
    (database / "db.parts.csv").write_text(
        "file,start,end,emotion\nwav/03a01Fa.wav,0 days 00:00:01.5,0 days 00:00:02,anger\n"
    )
    with pytest.raises(CorpusError, match="names segments of recordings"):
        from_audformat([database / "db.parts.csv"], database)


def test_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("path,emotion\na.wav,sad\n")
    with pytest.raises(CorpusError, match="no table of audformat"):
        from_audformat([tmp_path / "x.csv"], tmp_path)


# --- EmoBox -----------------------------------------------------------------------------------------------------------


def test_emobox_lists_are_read_wherever_their_paths_begin(tmp_path):
    touch(tmp_path, "wav/03a02Wb.wav", "wav/08a05Lc.wav")
    lines = [
        {"key": "emodb-03a02Wb", "dataset": "emodb", "wav": "downloads/emodb/wav/03a02Wb.wav", "emo": "anger"},
        {"key": "emodb-08a05Lc", "dataset": "emodb", "wav": "downloads/emodb/wav/08a05Lc.wav", "emo": "boredem"},
    ]
    for line in lines:
        (tmp_path / f"{line['key']}.jsonl").write_text(json.dumps(line) + "\n")
    draft = from_emobox(sorted(tmp_path.glob("*.jsonl")), tmp_path, pattern=r"(?P<speaker>\d\d).*")
    assert draft.text().splitlines() == [
        "path,speaker,emotion",
        "wav/03a02Wb.wav,03,angry",
        "wav/08a05Lc.wav,08,boredom",
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"wav": "a.wav"}', "line 1: not a line of EmoBox's lists"),
        ("[]", "line 1: not a line of EmoBox's lists"),
        ('{"wav": "x/b.wav", "emo": "sad"}', "1 of 1 recordings are not below"),
        ('{"wav": "../a.wav/../../b.wav", "emo": "sad"}', "1 of 1 recordings are not below"),
    ],
)
def test_emobox_list_that_cannot_be_used_is_refused(tmp_path, line, says):
    (touch(tmp_path, "a.wav") / "list.jsonl").write_text(line + "\n")
    with pytest.raises(CorpusError, match=says):
        from_emobox([tmp_path / "list.jsonl"], tmp_path)


# --- the command ------------------------------------------------------------------------------------------------------


def test_command_writes_a_manifest_that_is_read(tmp_path, capsys):
    touch(tmp_path, "gio-f1-b1.wav", "neu-m2-l1.wav")
    assert emobench("data", "manifest", tmp_path, "--from", "regex", "--pattern", EMOVO, "--label", "gio=happy") == 0
    assert f"Wrote {tmp_path / 'manifest.csv'}: 2 recordings" in capsys.readouterr().out
    assert {u.emotion for u in scan(path=tmp_path / "manifest.csv").utterances} == {"happy", "neutral"}
    assert emobench("data", "manifest", tmp_path, "--from", "regex", "--pattern", EMOVO) == 2
    assert "exists. Remove or rename it." in capsys.readouterr().err


# --- what names tell by themselves ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "rows"),
    [
        (["speaker-1/angry-01.wav", "speaker-2/sad-02.wav"], [("speaker-1", "angry"), ("speaker-2", "sad")]),
        (["Anger/s01_x.wav", "Joy/s02_x.wav"], [("s01", "angry"), ("s02", "happy")]),
        (["angry/anna.wav", "sad/ben.wav"], [("", "angry"), ("", "sad")]),
    ],
)
def test_guess_reads_words_that_stand_in_every_path(tmp_path, paths, rows):
    draft = guess(touch(tmp_path, *paths))
    assert [(row.get("speaker", ""), row["emotion"]) for row in draft.rows] == rows


@pytest.mark.parametrize("paths", [["angry/1.wav", "2.wav"], ["sad/1.wav"], ["angry/1.wav", "angry/2.wav"], []])
def test_guess_of_names_that_do_not_tell_is_none(tmp_path, paths):
    assert guess(touch(tmp_path, *paths)) is None


# --- init -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "corpus", "protocol"),
    [(emodb_names, "emodb", "group-kfold"), (savee_names, "savee", "loso"), (tess_names, "tess", "loso")],
)
def test_init_knows_a_corpus_by_its_names(tmp_path, monkeypatch, capsys, names, corpus, protocol):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, *(f"downloads/wav/{stem}.wav" for stem in names()))
    assert emobench("init", "downloads") == 0
    config = load_config(tmp_path / "emobench.yaml")
    assert [(row.name, row.root) for row in config.corpora] == [(corpus, str(tmp_path / "downloads"))]
    assert [row.name for row in config.protocols] == [protocol]
    assert "next: emobench run emobench.yaml\n" in capsys.readouterr().out


def test_folder_of_emodbs_names_runs_by_init_alone(tmp_path, monkeypatch, capsys):
    pitch = dict(zip("WLEAFTN", range(150, 850, 100), strict=True))
    folder = write_tree(
        tmp_path / "wav", [f"{stem}.wav" for stem in emodb_names()], pitch_of=lambda path: pitch[path[5]]
    )
    monkeypatch.chdir(folder)
    assert emobench("init") == 0
    out, err = capsys.readouterr()
    assert "535 recordings, 10 speakers" in out
    assert "would not run" not in err
    command = out.split("next: emobench ")[1].split()
    assert emobench(*command, "--only", "svm", "-q") == 0
    [run] = (tmp_path / "results").glob("emobench-*")
    [row] = load_results(run).leaderboard.to_dict("records")
    assert (row["corpus"], row["n_utterances"], row["n_speakers"], row["waives"]) == ("emodb", 535, 10, "")
    assert row["uar"] > 0.9


def test_init_takes_a_manifest_as_it_is(tmp_path, monkeypatch, tiny_corpus):
    monkeypatch.chdir(tmp_path)
    assert emobench("init", tiny_corpus / "manifest.csv", "--config", "a.yaml") == 0
    assert emobench("init", tiny_corpus, "--config", "b.yaml") == 0
    one, other = (load_config(tmp_path / name) for name in ("a.yaml", "b.yaml"))
    assert one.corpora == other.corpora
    assert one.corpora[0].path == str(tiny_corpus / "manifest.csv")
    assert [row.name for row in one.protocols] == ["loso"]


def test_init_writes_a_manifest_from_names_where_they_tell(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    write_corpus(folder, n_speakers=6)
    (folder / "manifest.csv").unlink()
    monkeypatch.chdir(tmp_path)
    assert emobench("init", "mine", "--json") == 0
    started = json.loads(capsys.readouterr().out)
    assert started["manifest"] == "mine/manifest.csv"
    assert len(scan(path=folder / "manifest.csv").utterances) == 36
    assert load_config(tmp_path / "emobench.yaml").protocols[0].name == "group-kfold"


def test_init_of_unknown_speakers_takes_a_random_split_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, *(f"{emotion}/{n}.wav" for emotion in ("angry", "sad") for n in range(6)))
    assert emobench("init", ".") == 0
    out = capsys.readouterr().out
    assert "12 recordings, speakers unknown" in out
    assert "the split is random: no figure for new speakers" in out
    assert [row.name for row in load_config(tmp_path / "emobench.yaml").protocols] == ["random-kfold"]


def test_init_leaves_out_emotions_of_one_speaker(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paths = [f"s{n}/{emotion}.wav" for n in range(6) for emotion in ("angry", "sad")]
    touch(tmp_path, *paths, "s3/calm.wav")
    assert emobench("init", ".") == 0
    assert load_config(tmp_path / "emobench.yaml").corpora[0].emotions == ["angry", "sad"]
    assert "left out, as only one speaker has them: calm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "code", "says"),
    [
        (["a.wav"], 3, "holds 1 recordings, such as a.wav, and no corpus by name"),
        ([], 3, "holds 0 recordings, and no corpus by name"),
        (["emobench.yaml"], 2, "emobench.yaml exists. Name another file with --config"),
    ],
)
def test_init_that_cannot_begin_says_why(tmp_path, monkeypatch, capsys, files, code, says):
    monkeypatch.chdir(touch(tmp_path, *files))
    assert emobench("init") == code
    assert says in capsys.readouterr().err


def test_init_of_an_archive_names_every_corpus_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, *(f"all/Savee/{stem}.wav" for stem in savee_names()))
    touch(tmp_path, *(f"all/Tess/{stem}.wav" for stem in tess_names()))
    assert emobench("init", "all") == 0
    config = load_config(tmp_path / "emobench.yaml")
    assert [row.name for row in config.corpora] == ["tess", "savee"]
    assert [(row.name, row.options["n_splits"]) for row in config.protocols] == [("group-kfold", 2)]


def test_init_says_what_would_end_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "s1/angry.wav", "s1/sad.wav", "s2/angry.wav", "s2/sad.wav")  # empty, so all the same
    assert emobench("init", ".") == 0
    assert "warning: it would not run yet: " in capsys.readouterr().err


def test_init_of_nothing_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert emobench("init", "nowhere") == 3
    assert "nowhere does not exist" in capsys.readouterr().err
