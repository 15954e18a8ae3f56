"""Protocols keep speakers apart, depend on names alone, and are certified before anything is fitted."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import LeaveOneGroupOut

from emobench.errors import ConfigError, LeakageError, SplitError
from emobench.protocols import PROTOCOLS, Fold, Labels, get_protocol
from emobench.protocols.certificate import certify, check_classes, fold_fingerprint
from emobench.protocols.folds import EMOBOX_FOLDS, LUNA_FOLDS, make_folds

EMOTIONS = ("angry", "calm", "fearful", "happy", "sad")


def design(n_speakers=24, n_repetitions=4, corpus="ravdess"):
    """Return the labels of a balanced corpus like RAVDESS."""
    rows = [
        (f"{speaker:02d}", emotion, repetition)
        for speaker in range(1, n_speakers + 1)
        for emotion in EMOTIONS
        for repetition in range(n_repetitions)
    ]
    return Labels(
        ids=tuple(f"{corpus}/{s}/{e}-{r}.wav" for s, e, r in rows),
        speakers=tuple(s for s, _, _ in rows),
        emotions=tuple(e for _, e, _ in rows),
        sexes=tuple("female" if int(s) % 2 == 0 else "male" for s, _, _ in rows),
        audio=tuple(f"{s}{e}{r}" for s, e, r in rows),
        corpus=corpus,
        statements=tuple("kids" if r % 2 else "dogs" for _, _, r in rows),
        intensities=tuple("strong" if r // 2 % 2 else "normal" for _, _, r in rows),
    )


GROUPED = [name for name, row in PROTOCOLS.items() if not row.waives and name != "file"]


@pytest.mark.parametrize("name", GROUPED)
def test_grouped_protocol_keeps_speakers_disjoint_and_tests_everything_once(name):
    labels = design()
    folds = make_folds(name, labels)
    speakers = np.array(labels.speakers)
    for fold in folds:
        assert np.intersect1d(speakers[fold.train], speakers[fold.test]).size == 0
        assert sorted([*fold.train, *fold.test]) == list(range(len(labels.ids)))
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(labels.ids)))


@pytest.mark.parametrize("name", ["group-kfold", "emobox-6fold", "loso"])
def test_grouped_folds_have_every_class_in_both_parts(name):
    labels = design()
    assert check_classes(labels, make_folds(name, labels), EMOTIONS, protocol=name) == []


def test_group_kfold_gives_every_fold_both_sexes_in_equal_number():
    labels = design()
    sexes, speakers = np.array(labels.sexes), np.array(labels.speakers)
    for fold in make_folds("group-kfold", labels):
        assert len(set(speakers[fold.test][sexes[fold.test] == "female"])) == 2
        assert len(set(speakers[fold.test][sexes[fold.test] == "male"])) == 2


def test_group_kfold_is_the_documented_deal():
    """Pinned by hand: no library's version may move a speaker."""
    labels = design(n_repetitions=1)
    speakers = np.array(labels.speakers)
    first = sorted(set(speakers[make_folds("group-kfold", labels)[0].test]))
    assert first == ["01", "02", "13", "14"]  # women 02 04 …, men 01 03 …, every sixth of 24


def test_loso_equals_scikit_learn():
    labels = design(n_speakers=5)
    expected = LeaveOneGroupOut().split(labels.ids, groups=labels.speakers)
    for fold, (train, test) in zip(make_folds("loso", labels), expected, strict=True):
        assert (fold.train == train).all()
        assert (fold.test == test).all()


@pytest.mark.parametrize("name, folds", [("emobox-6fold", EMOBOX_FOLDS), ("luna-5fold", LUNA_FOLDS)])
def test_published_folds_hold_each_actor_once(name, folds):
    assert sorted(actor for fold in folds for actor in fold) == list(range(1, 25))
    labels = design(n_repetitions=1)
    tested = [{int(labels.speakers[row]) for row in fold.test} for fold in make_folds(name, labels)]
    assert tested == [set(fold) for fold in folds]


def test_published_folds_refuse_another_corpus():
    with pytest.raises(SplitError, match="must be used with ravdess or synthetic. Got corpus 'emodb'"):
        make_folds("emobox-6fold", design(corpus="emodb"))


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 8), st.sampled_from(["loso", "group-kfold", "random-kfold"]))
def test_folds_do_not_depend_on_the_order_of_utterances(random, n_splits, name):
    labels = design(n_speakers=8, n_repetitions=2)
    order = list(range(len(labels.ids)))
    random.shuffle(order)
    parts = ("ids", "speakers", "emotions", "sexes", "audio")
    shuffled = Labels(**{part: tuple(getattr(labels, part)[i] for i in order) for part in parts}, corpus=labels.corpus)
    options = {} if name == "loso" else {"n_splits": n_splits}
    prints = [fold_fingerprint(make_folds(name, each, options=options), each.ids) for each in (labels, shuffled)]
    assert prints[0] == prints[1]


def test_random_kfold_is_balanced_seeded_and_shares_speakers():
    labels = design()
    emotions, speakers = np.array(labels.emotions), np.array(labels.speakers)
    folds = make_folds("random-kfold", labels, seed=1)
    for fold in folds:
        assert np.intersect1d(speakers[fold.train], speakers[fold.test]).size > 0
        assert np.ptp(np.unique(emotions[fold.test], return_counts=True)[1]) <= 1
    assert fold_fingerprint(folds, labels.ids) == fold_fingerprint(
        make_folds("random-kfold", labels, seed=1), labels.ids
    )
    assert fold_fingerprint(folds, labels.ids) != fold_fingerprint(
        make_folds("random-kfold", labels, seed=2), labels.ids
    )


def test_random_kfold_keeps_identical_audio_together():
    labels = design(n_speakers=6, n_repetitions=2)
    audio = list(labels.audio)
    audio[1::2] = audio[::2]  # every clip is there twice
    labels = replace(labels, audio=tuple(audio))
    for fold in make_folds("random-kfold", labels, options={"n_splits": 5}):
        assert not {audio[i] for i in fold.train} & {audio[i] for i in fold.test}


@pytest.mark.parametrize("name", ["group-kfold", "loso"])
def test_one_speaker_is_refused(name):
    with pytest.raises(SplitError, match="at least 2 speakers. Corpus 'ravdess' has 1"):
        make_folds(name, design(n_speakers=1))


HELD_OUT = {"statement-out": "statements", "intensity-out": "intensities", "sex-out": "sexes"}


@pytest.mark.parametrize("name", list(HELD_OUT))
def test_held_out_value_is_tested_by_models_of_the_others(name):
    labels = design()
    values = np.array(getattr(labels, HELD_OUT[name]))
    folds = make_folds(name, labels)
    assert [set(values[fold.test]) for fold in folds] == [{value} for value in sorted(set(values))]
    assert all(not set(values[fold.train]) & set(values[fold.test]) for fold in folds)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(labels.ids)))
    assert check_classes(labels, folds, EMOTIONS, protocol=name) == []


@pytest.mark.parametrize("name, n_shared", [("statement-out", 24), ("intensity-out", 24), ("sex-out", 0)])
def test_held_out_protocol_says_whether_it_shares_speakers(name, n_shared):
    labels, row = design(), get_protocol(name)
    proof = certify(labels, make_folds(name, labels), protocol=name, waives=row.waives)
    assert [fold["shared_speakers"] for fold in proof["folds"]] == [n_shared, n_shared]
    assert row.waives == (("speaker",) if n_shared else ())
    if n_shared:
        with pytest.raises(LeakageError, match="speaker '01' is in both"):
            certify(labels, make_folds(name, labels), protocol=name)


@pytest.mark.parametrize("name", list(HELD_OUT))
def test_held_out_protocol_refuses_a_corpus_that_does_not_say(name):
    labels, part = design(), HELD_OUT[name]
    what = name.removesuffix("-out")
    with pytest.raises(
        SplitError, match=f"must know the {what} of every utterance. Corpus 'ravdess' tells it of 479 of"
    ):
        make_folds(name, replace(labels, **{part: ("", *getattr(labels, part)[1:])}))
    with pytest.raises(SplitError, match="tells it of 0 of 480"):
        make_folds(name, replace(labels, **{part: ()}))
    with pytest.raises(SplitError, match=f"at least 2 values of {what}. Corpus 'ravdess' has 'x' alone"):
        make_folds(name, replace(labels, **{part: ("x",) * len(labels.ids)}))


def test_intensity_out_refuses_an_emotion_of_one_intensity():
    """As RAVDESS has no strong neutral speech: whoever trains on strong alone has never heard it."""
    labels = design()
    kept = [
        row for row in range(len(labels.ids)) if (labels.emotions[row], labels.intensities[row]) != ("calm", "strong")
    ]
    labels = labels.take(np.array(kept))
    folds = make_folds("intensity-out", labels)
    with pytest.raises(SplitError, match="fold 0: no training utterance of calm"):
        check_classes(labels, folds, EMOTIONS, protocol="intensity-out")
    remarks = check_classes(labels, folds, EMOTIONS, protocol="intensity-out", allow_missing=True)
    assert remarks == [
        "intensity-out, fold 1: no test utterance of calm",
        "intensity-out, fold 0: no training utterance of calm",
    ]


def test_identical_audio_under_two_statements_is_refused():
    labels = design(n_speakers=6)
    audio = (labels.audio[1], *labels.audio[1:])
    labels = replace(labels, audio=audio)
    folds = make_folds("statement-out", labels)
    with pytest.raises(LeakageError, match="identical audio is in both"):
        certify(labels, folds, protocol="statement-out", waives=("speaker",))


@pytest.mark.parametrize("name", [name for name, row in PROTOCOLS.items() if name != "file"])
def test_identical_audio_of_one_kind_stays_in_one_fold_of_every_protocol(name):
    """RAVDESS has a pair: one actor's two repetitions of a statement, with the same emotion and intensity."""
    labels = design(n_repetitions=8)  # repetitions 0 and 4 are the same but in name
    audio = list(labels.audio)
    audio[4] = audio[0]
    labels = replace(labels, audio=tuple(audio))
    folds = make_folds(name, labels)
    certify(labels, folds, protocol=name, waives=get_protocol(name).waives)
    assert [{0, 4} <= set(fold.test) for fold in folds].count(True) == 1


def test_labels_take_keeps_what_a_corpus_does_not_say_empty():
    labels = replace(design(n_speakers=2), intensities=())
    taken = labels.take(np.array([3, 1]))
    assert taken.statements == ("kids", "kids")
    assert taken.intensities == ()
    assert (taken.ids, taken.corpus) == ((labels.ids[3], labels.ids[1]), "ravdess")


def test_fewer_speakers_than_folds_are_refused():
    with pytest.raises(SplitError, match=r"n_splits must be at most the number of speakers \(4\)\. Got 5"):
        make_folds("group-kfold", design(n_speakers=4), options={"n_splits": 5})


def test_check_classes_refuses_a_class_that_one_speaker_alone_has():
    labels = design(n_speakers=4)
    emotions = [
        "disgust" if (s, e) == ("01", "sad") else e for s, e in zip(labels.speakers, labels.emotions, strict=True)
    ]
    labels = replace(labels, emotions=tuple(emotions))
    folds = make_folds("loso", labels)
    classes = sorted(set(emotions))
    with pytest.raises(SplitError, match="fold 0: no training utterance of disgust"):
        check_classes(labels, folds, classes, protocol="loso")
    remarks = check_classes(labels, folds, classes, protocol="loso", allow_missing=True)
    assert "loso, fold 0: no training utterance of disgust" in remarks
    assert "loso, fold 1: no test utterance of disgust" in remarks


# --- the certificate ------------------------------------------------------------------------------------------------


def leaking(labels, first, second):
    """Return a fold whose training part has `first` and whose test part has `second`, by position."""
    rest = np.setdiff1d(np.arange(len(labels.ids)), [first, second])
    test = rest[[labels.speakers[i] == labels.speakers[second] for i in rest]]
    return Fold(0, 0, np.setdiff1d(rest, test).tolist() + [first], np.append(test, second))


def test_certify_names_the_pair_of_a_shared_speaker():
    labels = design(n_speakers=3, n_repetitions=1)
    fold = leaking(labels, 0, 1)  # both of speaker 01
    with pytest.raises(
        LeakageError, match=r"fold 0: speaker '01' is in both, as 'ravdess/01/angry-0.wav' \(training\)"
    ):
        certify(labels, [fold], protocol="file")


def test_certify_names_the_pair_of_identical_audio_even_where_speakers_are_waived():
    labels = design(n_speakers=3, n_repetitions=1)
    audio = list(labels.audio)
    audio[1] = audio[0]
    labels = replace(labels, audio=tuple(audio))
    with pytest.raises(LeakageError, match="identical audio is in both, as 'ravdess/01/angry-0.wav'"):
        certify(labels, [leaking(labels, 0, 1)], protocol="random-kfold", waives=("speaker",))


def test_certify_refuses_a_test_row_in_training():
    labels = design(n_speakers=3, n_repetitions=1)
    fold = Fold(0, 0, np.arange(10), np.arange(9, 15))
    with pytest.raises(LeakageError, match="share no utterance"):
        certify(labels, [fold], protocol="x", waives=("speaker",))


def test_certificate_counts_what_is_shared():
    labels = design(n_speakers=6)
    honest = certify(labels, make_folds("loso", labels), protocol="loso")
    assert [fold["shared_speakers"] for fold in honest["folds"]] == [0] * 6
    assert honest["n_tested"] == len(labels.ids)
    random = certify(labels, make_folds("random-kfold", labels), protocol="random-kfold", waives=("speaker",))
    assert all(fold["shared_speakers"] == 6 for fold in random["folds"])
    assert random["waives"] == ["speaker"]


# --- folds from a file ----------------------------------------------------------------------------------------------


def write_folds(path, rows, header="utterance,fold"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_file_repeats_the_folds_of_a_run(tmp_path):
    labels = design(n_speakers=6, n_repetitions=1)
    folds = make_folds("group-kfold", labels, options={"n_splits": 3})
    rows = [f"group-kfold,{labels.ids[row]},0,{fold.index}" for fold in folds for row in fold.test]
    rows += [f"loso,{name},0,{row % 6}" for row, name in enumerate(labels.ids)]
    path = write_folds(tmp_path / "folds.csv", rows, "protocol,utterance,repeat,fold")
    again = make_folds("file", labels, options={"path": path, "protocol": "group-kfold"})
    assert fold_fingerprint(again, labels.ids) == fold_fingerprint(folds, labels.ids)
    with pytest.raises(SplitError, match="must be in one fold"):
        make_folds("file", labels, options={"path": path})


@pytest.mark.parametrize(
    "rows, header, error, message",
    [
        ([], "a,b", ConfigError, "Missing: fold, utterance"),
        ([], "utterance,fold", SplitError, "15 of 15 are missing"),
        (["ravdess/01/angry-0.wav,x"], "utterance,fold", ConfigError, "line 2: fold must be a whole number"),
        (["ravdess/01/angry-0.wav,-1"], "utterance,fold", ConfigError, "Got '-1'"),
        (["ravdess/01/angry-0.wav"], "utterance,fold", ConfigError, "Got None"),
    ],
    ids=["columns", "missing", "text", "negative", "ragged"],
)
def test_file_refuses_what_is_no_split(tmp_path, rows, header, error, message):
    labels = design(n_speakers=3, n_repetitions=1)
    with pytest.raises(error, match=message):
        make_folds("file", labels, options={"path": write_folds(tmp_path / "folds.csv", rows, header)})


def test_file_refuses_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="must be a readable CSV of folds"):
        make_folds("file", design(), options={"path": str(tmp_path / "none.csv")})
