import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emobench.corpora import CORPORA, Utterance
from emobench.corpora.ravdess import complete_copy, parse, scan
from emobench.errors import CorpusError

REAL = Path(__file__).parents[2] / "shared/data/ravdess"
CLIP = "Actor_12/03-01-06-01-02-01-12.wav"


@pytest.fixture
def touch(tmp_path):
    """Make empty files below a folder, by relative path."""

    def make(*paths):
        for path in paths:
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        return tmp_path

    return make


def test_scan_reads_every_field_of_the_name(touch):
    root = touch(CLIP, "Actor_01/03-01-01-01-01-02-01.FLAC")
    kids, dogs = "Kids are talking by the door.", "Dogs are sitting by the door."
    first = "Actor_01/03-01-01-01-01-02-01.FLAC"
    assert scan(root).utterances == (
        Utterance(first, "ravdess", "01", "neutral", "male", "1", "normal", "2", text=kids),
        Utterance(CLIP, "ravdess", "12", "fearful", "female", "2", "normal", "1", text=dogs),
    )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("Actor_12/03-01-06-01-02-12.wav", "6 fields instead of 7"),
        ("Actor_12/03-01-06-01-02-01-12-01.wav", "8 fields instead of 7"),
        ("Actor_12/speech.wav", "1 field instead of 7"),
        ("Actor_12/03-01-ab-01-02-01-12.wav", "emotion 'ab' is none of 01…08"),
        ("Actor_12/03-01-09-01-02-01-12.wav", "emotion '09' is none of 01…08"),
        ("Actor_12/03-01-6-01-02-01-12.wav", "emotion '6' is none of 01…08"),
        ("Actor_25/03-01-06-01-02-01-25.wav", "actor '25' is none of 01…24"),
        ("Actor_12/03-01-06-03-02-01-12.wav", "intensity '03' is none of 01…02"),
        ("Actor_12/03-01-06-01-00-01-12.wav", "statement '00' is none of 01…02"),
        ("Actor_12/03-01-06-01-02-03-12.wav", "repetition '03' is none of 01…02"),
        ("Actor_12/03-03-06-01-02-01-12.wav", "channel '03' is none of 01…02"),
        ("Actor_12/03-01-09-03-02-01-12.wav", "emotion '09' is none of 01…08; intensity '03' is none of 01…02"),
        ("Actor_12/03-01-01-02-02-01-12.wav", "neutral .* has no strong intensity"),
        ("Actor_12/01-01-06-01-02-01-12.wav", r"modality '01' \(audio and video\) instead of 03"),
        ("Actor_12/02-02-06-01-02-01-12.wav", r"modality '02' \(video only\) instead of 03"),
        ("Actor_11/03-01-06-01-02-01-12.wav", "the name says Actor_12, but it lies in 'Actor_11'"),
        ("actor_12/03-01-06-01-02-01-12.wav", "the name says Actor_12, but it lies in 'actor_12'"),
        ("Actor_12 (1)/03-01-06-01-02-01-12.wav", r"the name says Actor_12, but it lies in 'Actor_12 \(1\)'"),
        ("03-01-06-01-02-01-12.wav", "the name says Actor_12, but it lies in no Actor folder"),
    ],
    ids=lambda value: value.replace("/", "|"),
)
def test_scan_refuses_a_name_that_breaks_the_pattern(touch, path, reason):
    root = touch(CLIP.replace("-01-12", "-02-12"), path)
    with pytest.raises(CorpusError, match=f"MM-CC-EE-II-SS-RR-AA(.|\n)*{reason}"):
        scan(root)


def test_scan_lists_all_offending_names_at_once(touch):
    bad = ["Actor_01/x.wav", "Actor_02/03-01-09-01-01-01-02.wav", "Actor_03/03-01-02-01-01-01-04.wav"]
    with pytest.raises(CorpusError, match="3 of 4 in") as caught:
        scan(touch(CLIP, *bad))
    assert all(repr(path) in str(caught.value) for path in bad)


@pytest.mark.parametrize("suffix", [".flac", ".WAV"])
def test_scan_refuses_one_recording_in_two_files(touch, suffix):
    other = CLIP.replace(".wav", suffix)
    with pytest.raises(CorpusError, match="the same recording as") as caught:
        scan(touch(CLIP, other))
    assert CLIP in str(caught.value)
    assert other in str(caught.value)


def test_scan_leaves_out_and_counts_song(touch):
    songs = [f"Actor_12/03-02-06-01-02-0{repetition}-12.wav" for repetition in (1, 2)]
    found = scan(touch(CLIP, *songs))
    assert [utterance.path for utterance in found.utterances] == [CLIP]
    assert found.left_out == {"channel 02 (song)": 2}


def test_scan_of_songs_only_says_that_they_were_left_out(touch):
    with pytest.raises(CorpusError, match=r"None matches .*Left out: 1 of channel 02 \(song\)"):
        scan(touch("Actor_12/03-02-06-01-02-01-12.wav"))


def test_scan_takes_the_channel_and_modality_asked_for(touch):
    root = touch("Actor_12/01-02-06-01-02-01-12.wav")
    found = scan(root, modalities=("01",), channels=("02",))
    assert len(found.utterances) == 1
    assert found.left_out == {}
    assert len(found.missing) == 1012 - 1


def test_scan_ignores_and_reports_what_is_no_clip(touch):
    junk = ["Actor_12/.DS_Store", "Actor_12/._03-01-06-01-02-01-12.wav", "Actor_12/Thumbs.db", "README.md", "a.zip"]
    found = scan(touch(CLIP, *junk, "__MACOSX/Actor_12/._x.wav", "other/desktop.ini"))
    assert len(found.utterances) == 1
    assert found.ignored == tuple(sorted([*junk, "__MACOSX/", "other/"]))


def test_scan_finds_an_archive_unpacked_one_level_deeper(touch):
    root = touch(f"Speech/{CLIP}", "Speech/.DS_Store", "__MACOSX/Actor_12/._x.wav")
    found = scan(root)
    assert [utterance.path for utterance in found.utterances] == [f"Speech/{CLIP}"]
    assert found.ignored == ("Speech/.DS_Store",)
    assert (root / found.utterances[0].path).exists()
    assert len(found.missing) == 1439


def test_scan_refuses_several_copies(touch):
    with pytest.raises(CorpusError, match="holds several: Song, Speech"):
        scan(touch(f"Speech/{CLIP}", f"Song/{CLIP}"))


def test_scan_names_what_a_complete_copy_has_and_this_one_has_not(touch):
    names = list(complete_copy(["03"], ["01"]))
    assert len(names) == len(set(names)) == 1440
    absent = "Actor_05/03-01-02-01-01-01-05"
    found = scan(touch(*(f"{name}.wav" for name in names if name != absent)))
    assert len(found.utterances) == 1439
    assert found.missing == (absent,)


@pytest.mark.parametrize("state", ["missing", "file", "empty", "junk"])
def test_scan_of_a_folder_without_clips_says_where_it_looked(touch, state):
    root = touch("file", "junk/Actor_01/x.txt") / state
    if state == "empty":
        root.mkdir()
    with pytest.raises(CorpusError, match="emobench data fetch ravdess") as caught:
        scan(root)
    assert str(root.absolute()) in str(caught.value)


def test_scan_opens_nothing_so_a_fifo_and_a_folder_named_like_clips_are_left_to_the_decoder(tmp_path):
    (tmp_path / CLIP).mkdir(parents=True)
    os.mkfifo(tmp_path / "Actor_12/03-01-06-01-02-02-12.wav")
    (tmp_path / "Actor_12/03-01-06-01-01-02-12.wav").symlink_to("nowhere")
    assert len(scan(tmp_path).utterances) == 3


def test_scan_follows_links_but_not_in_circles(touch):
    elsewhere = touch(f"disk/{CLIP}") / "disk"
    root = elsewhere.parent / "root"
    root.mkdir()
    (root / "Actor_12").symlink_to(elsewhere / "Actor_12")
    (root / "again").symlink_to(root)
    (root / "Actor_13").symlink_to("Actor_13")
    (elsewhere / "Actor_12/up").symlink_to(root)
    found = scan(root)
    assert [utterance.path for utterance in found.utterances] == [CLIP]
    assert found.ignored == ("Actor_12/up/", "Actor_13", "again/")


NAME_LIKE = st.lists(st.sampled_from(["01", "02", "03", "08", "09", "24", "25", "", "0١"]), min_size=6, max_size=8)


@given(st.text() | NAME_LIKE.map("-".join))
@example("03-01-06-01-02-01-12")
def test_parse_returns_seven_known_codes_or_raises_a_corpus_error(stem):
    try:
        codes = parse(stem)
    except CorpusError:
        return
    assert "-".join(codes.values()) == stem
    assert len(stem) == 20


def test_emotions_are_those_of_the_corpus_row(touch):
    found = scan(touch(*(f"{name}.flac" for name in complete_copy(["03"], ["01"]))))
    row = CORPORA["ravdess"]
    assert {utterance.emotion for utterance in found.utterances} == set(row.emotions)
    assert len(found.utterances) == row.n_utterances


@pytest.mark.skipif(not REAL.is_dir(), reason="the real corpus is not on this machine")
def test_scan_of_the_real_corpus_is_complete():
    found = scan(REAL)
    assert len(found.utterances) == 1440
    assert len({utterance.speaker for utterance in found.utterances}) == 24
    assert found.missing == found.ignored == ()
    assert found.left_out == {}
