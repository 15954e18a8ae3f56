import csv
import os

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from emobench.corpora import Utterance
from emobench.corpora.manifest import scan
from emobench.errors import CorpusError

HEADER = "path,speaker,emotion\n"


@pytest.fixture
def corpus(tmp_path):
    """Write a manifest beside the recordings a.wav, b.wav and more/c.wav; return its path."""
    root = tmp_path / "corpus"
    (root / "more").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "more/c.wav"):
        (root / name).touch()

    def write(text):
        path = root / "all.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def faults(path, **options):
    with pytest.raises(CorpusError) as caught:
        scan(**{"root": None, "path": path, **options})
    return str(caught.value)


def test_scan_reads_required_and_optional_columns_sorted_by_path(corpus):
    path = corpus(
        "emotion,path,age,speaker,sex,statement,intensity,repetition\n"
        "sad,more/c.wav,30,s2,,,,\n"
        " angry ,./a.wav,31, s1 ,F,kids,strong,2\n"
    )
    assert scan(None, path=path).utterances == (
        Utterance("a.wav", "manifest", "s1", "angry", "female", "kids", "strong", "2"),
        Utterance("more/c.wav", "manifest", "s2", "sad"),
    )


@pytest.mark.parametrize("path_column", ["file", "filename", "Path", "File Name", "wav"])
@pytest.mark.parametrize("emotion_column", ["label", "class", "Emotion", "CLASS"])
def test_scan_understands_other_names_of_columns_with_a_remark(corpus, path_column, emotion_column):
    found = scan(None, path=corpus(f"{path_column},speaker,{emotion_column},gender\na.wav,1,sad,m\n"))
    assert found.utterances == (Utterance("a.wav", "manifest", "1", "sad", "male"),)
    assert found.remarks == (
        f"column '{path_column}' is read as 'path'",
        f"column '{emotion_column}' is read as 'emotion'",
        "column 'gender' is read as 'sex'",
    )


def test_scan_prefers_the_usual_name_and_refuses_two_others(corpus):
    found = scan(None, path=corpus("path,file,speaker,emotion,label\na.wav,x,1,sad,y\n"))
    assert (found.utterances[0].path, found.utterances[0].emotion, found.remarks) == ("a.wav", "sad", ())
    assert "Columns 'file' and 'filename' of " in faults(corpus("file,filename,speaker,emotion\na.wav,a.wav,1,sad\n"))


def test_scan_resolves_paths_against_a_given_root(corpus, tmp_path):
    path = corpus(HEADER + "c.wav,1,sad\n")
    assert scan(path.parent / "more", path=path).utterances[0].path == "c.wav"
    assert "must be a folder" in faults(path, root=tmp_path / "nowhere")


@pytest.mark.parametrize("text", [HEADER + "a.wav,1,sad\n", HEADER.replace("\n", "\r\n") + "a.wav,1,sad"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_scan_accepts_line_ends_and_a_byte_order_mark(corpus, text, encoding):
    assert len(scan(None, path=corpus(text.encode(encoding))).utterances) == 1


@pytest.mark.parametrize(
    "name", ["grün 日本.wav", " a b .wav", 'it\'s "so".wav', "two\nlines.wav", "x,y.wav", "=1+1.wav"]
)
def test_scan_accepts_any_file_name(corpus, name):
    path = corpus("")
    (path.parent / name).touch()
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "speaker", "emotion"], [name, "1", "sad"]])
    assert [utterance.path for utterance in scan(None, path=path).utterances] == [name]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("a.wav,,sad\n", "line 2: speaker is ''"),
        ("a.wav,NaN,sad\n", "line 2: speaker is 'NaN'"),
        ("a.wav,NA,sad\n", "line 2: speaker is 'NA'"),
        ("a.wav,1, \n", "line 2: emotion is ' '"),
        (",1,sad\n", "line 2: path is ''"),
        ("a.wav,1,sad\nb.wav,1,sad\n\na.wav,2,sad\n", "line 5: path 'a.wav' is the same file as on line 2"),
        (
            "a.wav,1,sad\nmore/.//c.wav,1,sad\n./more/c.wav,2,sad\n",
            "line 4: path 'more/c.wav' is the same file as on line 3",
        ),
        ("nowhere.wav,1,sad\n", "line 2: path 'nowhere.wav' cannot be found: No such file"),
        ("more\\c.wav,1,sad\n", "No such file or directory; use forward slashes"),
        (f"{'x' * 300}.wav,1,sad\n", "cannot be found: File name too long"),
        ("../corpus/a.wav,1,sad\n", "must be relative to the root and without '..'"),
        ("more/../a.wav,1,sad\n", "must be relative to the root and without '..'"),
        ("..\\a.wav,1,sad\n", "must be relative to the root and without '..'"),
        ("a.wav,1\n", "line 2: 2 cells, but the header has 3 columns"),
        ("a.wav,1,sad,\n", "line 2: 4 cells, but the header has 3 columns"),
    ],
)
def test_scan_refuses_a_row_by_its_line(corpus, rows, fault):
    assert fault in faults(corpus(HEADER + rows))


@pytest.mark.parametrize(
    ("paths", "root"),
    [
        ([f"/data/corpus/s{number % 3}/{number}.wav" for number in range(30)], "/data/corpus"),
        (["C:\\data\\a\\1.wav", "C:\\data\\b\\2.wav"], "C:\\data"),
        (["/data/1.wav"], "/data"),
        (["/data/1.wav", "D:\\1.wav"], "FOLDER"),
    ],
    ids=["posix", "windows", "one", "both"],
)
def test_scan_refuses_absolute_paths_in_one_sentence_that_names_root(corpus, paths, root):
    text = faults(corpus(HEADER + "".join(f"{path},1,sad\n" for path in paths) + "a.wav,1,sad\n"))
    assert f"{len(paths)} of {len(paths) + 1} paths in " in text
    assert f"Set `root: {root}` below the corpus" in text
    assert (text.count(repr(paths[0])), text.count("\n")) == (1, 0)


def test_scan_finds_a_file_whose_accents_are_encoded_another_way(corpus):
    """On the disk as macOS and its archives decompose them, in the CSV as editors compose them, and the reverse."""
    composed, decomposed = "caf\u00e9/z\u00fc.wav", "cafe\u0301/zu\u0308.wav"
    path = corpus(HEADER + f"{composed},1,sad\n")
    (path.parent / decomposed).parent.mkdir()
    (path.parent / decomposed).touch()
    (path.parent / "b\u00e4.wav").touch()
    found = scan(None, path=corpus(HEADER + f"{composed},1,sad\nba\u0308.wav,2,sad\n"))
    assert {utterance.path for utterance in found.utterances} == {decomposed, "b\u00e4.wav"}
    assert "is the same file as on line 2" in faults(corpus(HEADER + f"{composed},1,sad\n{decomposed},1,sad\n"))


def test_scan_prefers_the_spelling_that_the_csv_has(corpus):
    path = corpus(HEADER + "b\u00e4.wav,1,sad\nba\u0308.wav,2,sad\n")
    (path.parent / "b\u00e4.wav").touch()
    (path.parent / "ba\u0308.wav").touch()
    assert len(scan(None, path=path).utterances) == 2


def test_scan_lists_all_faults_at_once_by_the_line_a_row_starts_on(corpus):
    text = faults(corpus(HEADER + '"a\nb.wav",1,sad\nb.wav,,\na.wav,1\nb.wav,2,sad\n'))
    assert "4 faults" in text
    positions = [text.index(f"line {line}: ") for line in (2, 4, 4, 5)]
    assert positions == sorted(positions)


def test_scan_refuses_links_out_of_the_root_and_links_to_another_row(corpus, tmp_path):
    (tmp_path / "secret").touch()
    path = corpus(HEADER + "out.wav,1,sad\na.wav,1,sad\nalias.wav,1,sad\nloop.wav,1,sad\nthere/secret,1,sad\n")
    (path.parent / "out.wav").symlink_to(tmp_path / "secret")
    (path.parent / "alias.wav").symlink_to("a.wav")
    (path.parent / "loop.wav").symlink_to("loop.wav")
    (path.parent / "there").symlink_to(tmp_path)
    text = faults(path)
    assert f"line 2: path 'out.wav' is a link out of the root, to {tmp_path}/secret" in text
    assert "line 4: path 'alias.wav' is the same file as on line 3" in text
    assert "line 5: path 'loop.wav' cannot be found: Too many levels of symbolic links" in text
    assert "line 6: path 'there/secret' is a link out of the root" in text


def test_scan_accepts_a_root_that_is_a_link_and_links_inside_it(corpus, tmp_path):
    path = corpus(HEADER + "inner.wav,1,sad\n")
    (path.parent / "inner.wav").symlink_to("a.wav")
    (tmp_path / "link").symlink_to(path.parent)
    assert len(scan(tmp_path / "link", path=path).utterances) == 1


def test_scan_leaves_a_fifo_and_a_folder_to_the_decoder(corpus):
    path = corpus(HEADER + "fifo.wav,1,sad\nmore,1,sad\n")
    os.mkfifo(path.parent / "fifo.wav")
    assert len(scan(None, path=path).utterances) == 2


def test_scan_normalises_sex_and_refuses_what_it_cannot(corpus):
    header = "path,speaker,emotion,sex\n"
    path = corpus(header + "a.wav,1,sad,Male\nb.wav,2,sad,f\nmore/c.wav,3,sad,NA\n")
    assert [utterance.sex for utterance in scan(None, path=path).utterances] == ["male", "female", ""]
    assert "line 2: sex is 'x', not female" in faults(corpus(header + "a.wav,1,sad,x\n"))
    contradiction = faults(corpus(header + "a.wav,1,sad,f\nb.wav,1,sad,m\n"))
    assert "line 3: speaker '1' has sex 'male', but 'female' on line 2" in contradiction


def test_scan_passes_over_dimensions_with_a_remark(corpus):
    found = scan(None, path=corpus("path,speaker,emotion,Valence,arousal,age\na.wav,1,sad,0.1,0.2,30\n"))
    assert "passed over 'Valence', 'arousal': emobench compares categories of emotion, not dimensions" in found.remarks


def test_scan_takes_two_unicode_spellings_of_a_speaker_for_one(corpus):
    path = corpus(HEADER + "a.wav,Zo\u00eb,sad\nb.wav,Zoe\u0308,sad\n")
    assert {utterance.speaker for utterance in scan(None, path=path).utterances} == {"Zo\u00eb"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (HEADER, "has a header only"),
        ("path,speakr,emotion\na.wav,1,sad\n", "Column 'speaker' is missing. Did you mean 'speakr'?"),
        ("file,who\na.wav,1\n", "The header of"),
        ("path;speaker;emotion\na.wav;1;sad\n", "Separate the columns by commas"),
        ("path,speaker,emotion,path\na.wav,1,sad,a.wav\n", "Column 'path' is there twice"),
        (HEADER + 'a.wav,1,"sad\n', "after line 1: unexpected end of data"),
        (HEADER + 'b.wav,1,sad\n"a.wav"x,1,sad\n', "after line 2: ',' expected after"),
        (HEADER.encode() + b"a.wav,J\xf6rg,sad\n", "must be in UTF-8.*on line 2"),
        ((HEADER + "a.wav,1,sad\n").encode("utf-16"), "must be in UTF-8"),
        (HEADER + "a.wav,1\0,sad\n", "NUL byte on line 2"),
    ],
    ids=range(12),
)
def test_scan_refuses_a_file_that_is_no_manifest(corpus, text, fault):
    with pytest.raises(CorpusError, match=fault.replace("?", r"\?")):
        scan(None, path=corpus(text))


@pytest.mark.parametrize("name", ["nowhere.csv", ""], ids=["missing", "folder"])
def test_scan_refuses_a_path_that_is_no_file(tmp_path, name):
    assert "must be a CSV file" in faults(tmp_path / name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=60) | st.text('ab./\\",\n\r :', max_size=40).map(str.encode))
@example(b"a.wav,1,sad\n")
def test_scan_of_any_bytes_gives_utterances_below_the_root_or_a_corpus_error(corpus, rows):
    path = corpus(HEADER.encode() + rows)
    try:
        found = scan(None, path=path)
    except CorpusError:
        return
    assert all((path.parent / utterance.path).resolve().is_relative_to(path.parent) for utterance in found.utterances)
