"""Corpora by name: complete copies, what people have instead, and where they put it."""

from collections import Counter

import pytest
from corpus_trees import (
    EMODB_COUNTS,
    crema_d_names,
    emodb_names,
    ravdess_names,
    savee_names,
    tess_names,
)

from emobench.corpora import CORPORA
from emobench.corpora.location import locate
from emobench.corpora.scanning import check_scan
from emobench.errors import CorpusError
from emobench.registry import resolve
from emobench.testing import check_corpus

NAMES = {
    "crema-d": crema_d_names,
    "tess": tess_names,
    "savee": savee_names,
    "emodb": emodb_names,
    "ravdess": ravdess_names,
}
# As in dmitrybabko's archive on Kaggle.
ARCHIVE = {
    "crema-d": "Crema/",
    "tess": "Tess/",
    "savee": "Savee/",
    "ravdess": "Ravdess/audio_speech_actors_01-24/",
}
TESS_FOLDERS = {  # how two of its emotions are spelled there
    ("OAF", "fear"): "OAF_Fear",
    ("YAF", "fear"): "YAF_fear",
    ("OAF", "ps"): "OAF_Pleasant_surprise",
    ("YAF", "ps"): "YAF_pleasant_surprised",
}


def touch(root, paths):
    for parent in {path.rpartition("/")[0] for path in paths}:
        (root / parent).mkdir(parents=True, exist_ok=True)
    for path in paths:
        (root / path).touch()
    return root


def scan(name, root):
    row = CORPORA[name]
    return check_scan(resolve(row.scan)(root), row, root, name)


def only(name, root, path):
    """Return the only utterance of a folder with one file."""
    [utterance] = scan(name, touch(root, [path])).utterances
    return utterance


# --- complete copies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n", "by_emotion", "by_sex"),
    [
        ("crema-d", 7442, {"neutral": 1087, "": 1271}, {"female": 3512, "male": 3930}),
        ("tess", 2800, {"": 400}, {"female": 2800}),
        ("savee", 480, {"neutral": 120, "": 60}, {"male": 480}),
        (
            "emodb",
            535,
            {"angry": 127, "boredom": 81, "neutral": 79, "happy": 71, "fearful": 69, "sad": 62, "disgust": 46},
            {"female": 302, "male": 233},
        ),
        ("ravdess", 1440, {"neutral": 96, "": 192}, {"female": 720, "male": 720}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_complete_copy_has_every_recording(tmp_path, name, n, by_emotion, by_sex):
    found = scan(name, touch(tmp_path, [f"{stem}.wav" for stem in NAMES[name]()]))
    row = CORPORA[name]
    emotions = Counter(utterance.emotion for utterance in found.utterances)
    assert len(found.utterances) == n == row.n_utterances
    assert emotions == {emotion: by_emotion.get(emotion, by_emotion.get("")) for emotion in row.emotions}
    assert len({utterance.speaker for utterance in found.utterances}) == row.n_speakers
    assert Counter(utterance.sex for utterance in found.utterances) == by_sex
    assert (found.missing, found.remarks, found.left_out, found.ignored) == ((), (), {}, ())


def test_crema_d_has_its_speakers_sexes_levels_and_sentences(tmp_path):
    utterances = scan("crema-d", touch(tmp_path, [f"{stem}.wav" for stem in crema_d_names()])).utterances
    by_actor = Counter(utterance.speaker for utterance in utterances)
    lacking = {"1002": 81, "1008": 76, "1009": 76, "1019": 76, "1076": 81}
    assert by_actor == {str(actor): lacking.get(str(actor), 82) for actor in range(1001, 1092)}
    assert Counter(sex for _, sex in {(u.speaker, u.sex) for u in utterances}) == {"male": 48, "female": 43}
    assert Counter(u.intensity for u in utterances) == {"": 6077, "low": 455, "medium": 455, "high": 455}
    assert {u.statement for u in utterances if u.intensity} == {"IEO"}
    assert len({(u.statement, u.text) for u in utterances}) == 12


def test_emodb_has_its_speakers(tmp_path):
    utterances = scan("emodb", touch(tmp_path, [f"{stem}.wav" for stem in emodb_names()])).utterances
    assert Counter(u.speaker for u in utterances) == {name: sum(counts) for name, counts in EMODB_COUNTS.items()}
    assert len({(u.statement, u.text) for u in utterances}) == 10
    assert {u.speaker for u in utterances if u.sex == "male"} == {"03", "10", "11", "12", "15"}


def test_savee_tells_no_statement_as_its_names_do_not(tmp_path):
    utterances = scan("savee", touch(tmp_path, [f"{stem}.wav" for stem in savee_names()])).utterances
    assert {u.statement for u in utterances} == {""}


@pytest.mark.parametrize("name", NAMES)
def test_row_tells_licence_size_and_how_to_get_it(name):
    row = CORPORA[name]
    assert all((row.licence, row.size_mb, row.source, row.citation))


@pytest.mark.parametrize("name", ["crema-d", "tess", "savee", "emodb"])
def test_rows_keep_the_contract_of_a_corpus(tmp_path, name):
    check_corpus(CORPORA[name], touch(tmp_path, [f"{stem}.wav" for stem in list(NAMES[name]())[::50]]))


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "absent"), [("crema-d", "1044_IEO_FEA_MD"), ("savee", "JK_su07"), ("tess", "YAF_bak_ps")]
)
def test_missing_recording_is_named(tmp_path, name, absent):
    found = scan(name, touch(tmp_path, [f"{stem}.wav" for stem in NAMES[name]() if stem != absent]))
    assert found.missing == (absent,)


def test_emodb_tells_where_recordings_are_missing(tmp_path):
    found = scan("emodb", touch(tmp_path, [f"{stem}.wav" for stem in emodb_names() if stem != "13a02Wa"]))
    assert found.remarks == (
        "not the recordings of a complete copy, by speaker: 13 60 of 61",
        "not the recordings of a complete copy, by emotion: angry 126 of 127",
    )


# --- traps of names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "emotion", "speaker"),
    [
        ("savee", "DC/sa01.wav", "sad", "DC"),
        ("savee", "DC/su01.wav", "surprised", "DC"),
        ("savee", "AudioData/kl/n30.wav", "neutral", "KL"),
        ("savee", "KL_d15.wav", "disgust", "KL"),
        ("emodb", "wav/03a01Aa.wav", "fearful", "03"),
        ("emodb", "wav/16b10Td.wav", "sad", "16"),
        ("emodb", "wav/08a02Fe.wav", "happy", "08"),
        ("emodb", "wav/14a07Wc.wav", "angry", "14"),
        ("tess", "OAF_neutral/OA_bite_neutral.wav", "neutral", "OAF"),
        ("tess", "OAF_Pleasant_surprise/OAF_back_ps.wav", "surprised", "OAF"),
        ("tess", "YAF_happy/YAF_back_sad.wav", "sad", "YAF"),
        ("tess", "OAF_food_FEAR.WAV", "fearful", "OAF"),
        ("crema-d", "1040_ITH_SAD_X.wav", "sad", "1040"),
        ("crema-d", "AudioMP3/1001_ieo_ang_hi.mp3", "angry", "1001"),
    ],
    ids=lambda value: value.replace("/", "|"),
)
def test_name_is_read(tmp_path, name, path, emotion, speaker):
    found = only(name, tmp_path, path)
    assert (found.emotion, found.speaker, found.path) == (emotion, speaker, path)


def test_older_name_of_a_recording_is_not_missing_and_keeps_its_defect(tmp_path):
    stems = {stem: "1040_ITH_SAD_X" if stem == "1040_ITH_SAD_XX" else stem for stem in crema_d_names()}
    found = scan("crema-d", touch(tmp_path, [f"{stem}.wav" for stem in stems.values()]))
    assert found.missing == ()
    assert "1040_ITH_SAD_X.wav" in found.defects["tfds"]


@pytest.mark.parametrize(
    ("name", "good", "bad", "says"),
    [
        ("crema-d", "1001_IEO_ANG_HI.wav", "1092_IEO_ANG_HI.wav", "another name"),
        ("crema-d", "1001_IEO_ANG_HI.wav", "1001_IEO_BOR_HI.wav", "another name"),
        ("savee", "DC/a01.wav", "XX/a01.wav", "neither its name nor its folder tells the speaker"),
        ("savee", "DC/n30.wav", "DC/a16.wav", "angry has 15 recordings"),
        ("emodb", "03a01Fa.wav", "03a01Xa.wav", "another name"),
    ],
)
def test_strange_recording_beside_good_ones_is_refused_by_name(tmp_path, name, good, bad, says):
    home = "" if "/" not in bad else "AudioData/"
    paths = [home + good, home + "JE/a01.wav" if home else home + good, home + bad]
    with pytest.raises(CorpusError, match=f"1 in .*are not:\n  '{home + bad}': {says}"):
        scan(name, touch(tmp_path, paths))


def test_folder_without_a_recording_tells_how_they_are_called(tmp_path):
    with pytest.raises(CorpusError, match="recordings called SSTTTEv.wav, such as 03a01Fa.wav. None of 1 in"):
        scan("emodb", touch(tmp_path, ["x.wav"]))


# --- where people put them --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A folder with the archive of four corpora in it."""
    root = tmp_path_factory.mktemp("downloads")
    for name, place in ARCHIVE.items():
        stems = list(NAMES[name]())
        if name == "tess":
            stems = [f"{tess_folder(stem)}/{stem}" for stem in stems]
        touch(root / "speech-emotion-recognition-en", [f"{place}{stem}.wav" for stem in stems])
    return root


def tess_folder(stem):
    speaker, _, emotion = stem.split("_")
    return TESS_FOLDERS.get((speaker, emotion), f"{speaker}_{emotion}")


@pytest.mark.parametrize("name", ARCHIVE)
@pytest.mark.parametrize("root", ["", "speech-emotion-recognition-en"], ids=["above", "archive"])
def test_archive_of_four_corpora_is_read_from_its_folder_and_the_one_above(archive, name, root):
    found = scan(name, archive / root)
    assert len(found.utterances) == CORPORA[name].n_utterances
    assert found.missing == found.ignored == ()


@pytest.mark.parametrize("name", ARCHIVE)
@pytest.mark.parametrize("data", ["", "speech-emotion-recognition-en"], ids=["above", "archive"])
def test_archive_is_found_below_the_data_folder(archive, name, data, monkeypatch):
    monkeypatch.setenv("EMOBENCH_DATA", str(archive / data))
    folder = locate(CORPORA[name])
    assert folder.name == ARCHIVE[name].split("/")[0]
    assert len(scan(name, folder).utterances) == CORPORA[name].n_utterances


@pytest.mark.parametrize(
    ("name", "folder"),
    [("crema-d", "CREMA-D"), ("crema-d", "cremad"), ("crema-d", "Crema_D"), ("emodb", "EMO-DB"), ("savee", "SAVEE")]
    + [("tess", "TESS Toronto emotional speech set data")],
)
def test_folder_is_known_however_it_is_spelled(tmp_path, monkeypatch, name, folder):
    (tmp_path / "corpora" / folder).mkdir(parents=True)
    monkeypatch.setenv("EMOBENCH_DATA", str(tmp_path))
    assert locate(CORPORA[name]).name == folder


def test_tree_that_holds_itself_twice_is_read_once(tmp_path):
    stems = [f"{tess_folder(stem)}/{stem}.wav" for stem in tess_names()]
    outer = "TESS Toronto emotional speech set data"
    paths = [f"{outer}/{stem}" for stem in stems] + [f"{outer}/{outer}/{stem}" for stem in stems]
    found = scan("tess", touch(tmp_path, paths))
    assert len(found.utterances) == 2800
    assert not any(utterance.path.startswith(f"{outer}/{outer}/") for utterance in found.utterances)
    assert found.left_out == {"other copies of a recording": 2800}


def test_lossless_file_is_read_where_there_is_a_lossy_one_too(tmp_path):
    found = scan("crema-d", touch(tmp_path, ["AudioMP3/1001_IEO_ANG_HI.mp3", "AudioWAV/1001_IEO_ANG_HI.wav"]))
    assert [utterance.path for utterance in found.utterances] == ["AudioWAV/1001_IEO_ANG_HI.wav"]
