"""What every scanner does alike."""

import os

import pytest

from emobench.corpora import CorpusSpec, Scan, Utterance
from emobench.corpora.scanning import check_scan, find_files, is_junk
from emobench.errors import CorpusError, StorageError

ROW = CorpusSpec("mine", "Mine", "emobench.corpora.ravdess:scan", emotions=("happy", "sad"))


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def one(path="a.wav", speaker="ann", emotion="sad", **fields):
    return Utterance(path=path, corpus="", speaker=speaker, emotion=emotion, **fields)


def test_find_files_tells_recordings_from_everything_else(tmp_path):
    touch(
        tmp_path,
        "b/x.WAV",
        "b/c/y.flac",
        "a.wav",
        "read me.txt",
        "b/.x.wav",
        "Thumbs.db",
        "__MACOSX/z.wav",
        ".git/z.wav",
    )
    files, ignored = find_files(tmp_path)
    assert files == ["a.wav", "b/c/y.flac", "b/x.WAV"]
    assert ignored == [".git/", "Thumbs.db", "__MACOSX/", "b/.x.wav", "read me.txt"]
    assert find_files(tmp_path, [".txt"])[0] == ["read me.txt"]


@pytest.mark.parametrize(
    "name", [".DS_Store", "._a.wav", "a/desktop.ini", "THUMBS.DB", "@eaDir", "$RECYCLE.BIN/", "__MACOSX"]
)
def test_junk_is_known_by_its_name(name):
    assert is_junk(name)


@pytest.mark.parametrize("name", ["a.wav", "thumbs.wav", "b/macosx"])
def test_what_is_no_junk(name):
    assert not is_junk(name)


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "disk", "x.wav")
    touch(tmp_path / "corpus", "y.wav")
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "corpus" / "loop").symlink_to(tmp_path / "corpus")
    assert find_files(tmp_path / "corpus")[0] == ["linked/x.wav", "y.wav"]


def test_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a/x.wav")
    listdir = os.listdir

    def refuse(folder):
        if os.path.basename(folder) == "a":
            raise PermissionError(13, "Permission denied")
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(StorageError, match=f"{tmp_path}/a: Permission denied"):
        find_files(tmp_path)


@pytest.mark.parametrize("name, says", [("none", "does not exist"), ("file", "is not a folder")])
def test_root_must_be_a_folder(tmp_path, name, says):
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=f"{says}: {tmp_path / name}"):
        find_files(tmp_path / name)


def test_check_scan_orders_utterances_and_gives_them_the_name_of_the_results(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    found = check_scan(Scan((one("b.wav"), one("a.wav"))), ROW, tmp_path, "twin")
    assert [utterance.id for utterance in found.utterances] == ["twin/a.wav", "twin/b.wav"]


@pytest.mark.parametrize(
    "utterances, says",
    [
        ([one(), one()], "'a.wav': is listed twice"),
        ([one("c.wav")], "'c.wav': cannot be found"),
        ([one("../a.wav")], "must be relative to the root"),
        ([one("/a.wav")], "must be relative to the root"),
        ([one("b.wav"), one(speaker="")], "'a.wav': has no speaker"),
        ([one(emotion="")], "'a.wav': has no emotion"),
        ([one(emotion="bored")], "1 recordings have the label .bored., which is none of happy, sad"),
        ([one(sex="f")], "its sex is 'f', not female, male or empty"),
        ([], "has no recordings"),
    ],
)
def test_check_scan_names_what_is_wrong(tmp_path, utterances, says):
    touch(tmp_path, "a.wav", "b.wav")
    with pytest.raises(CorpusError, match=says):
        check_scan(Scan(tuple(utterances)), ROW, tmp_path, "mine")


def test_check_scan_warns_once_of_names_that_other_systems_take_for_one(tmp_path):
    names = ["b\u00e4.wav", "ba\u0308.wav", "X.wav", "x.wav", "a.wav"]
    touch(tmp_path, *names)
    (remark,) = check_scan(Scan(tuple(map(one, names))), ROW, tmp_path, "mine").remarks
    assert remark.endswith("kept as different recordings: 'X.wav' and 'x.wav'; 'ba\\u0308.wav' and 'b\\xe4.wav'")


def test_check_scan_takes_a_corpus_of_unknown_speakers(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    found = check_scan(Scan((one(speaker=""), one("b.wav", speaker=""))), ROW, tmp_path, "mine")
    assert {utterance.speaker for utterance in found.utterances} == {""}


def test_check_scan_of_a_planned_corpus_looks_for_no_file():
    assert check_scan(Scan((one("none.wav"),)), ROW, None, "mine").utterances


def test_scanner_that_returns_something_else_is_told():
    with pytest.raises(CorpusError, match="must return a Scan. It returned list"):
        check_scan([one()], ROW, None, "mine")
