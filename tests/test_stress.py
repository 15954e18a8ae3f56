"""Saved models and stressed recordings: from the copies in the store to verdicts and the command."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import write_corpus
from fitted import bundle_of, changed
from scipy.io import wavfile

from emobench.audio import DEFAULT_POLICY
from emobench.audio.decoding import read_audio
from emobench.bundles.storage import write_bundle
from emobench.cli.main import main
from emobench.errors import AudioError, DataError, UnknownNameError
from emobench.execution.workers import Pool
from emobench.features import get_features
from emobench.features.copies import Copy, Original, copies_of
from emobench.features.extraction import vectorise
from emobench.features.store import FeatureStore
from emobench.metrics import score
from emobench.models import build, get_model
from emobench.registry import PluginFile, using
from emobench.reports import slices
from emobench.reports.stress import ANSWERS, CLEAN, describe, verdict, worst
from emobench.running.robustness import stress_bundle
from emobench.running.verification import corpus_of
from emobench.statistics.counts import count_rows
from emobench.statistics.intervals import Interval
from emobench.stresses import STRESSES, Change, all_changes

CLASSES = ("angry", "happy", "sad")
LEVEL_ONLY = """
import numpy as np
from emobench.features import FeatureSpec
from emobench.stresses import StressSpec


def level(signal, *, sr):
    return np.array([10 * np.log10(np.mean(np.square(signal, dtype=float)) + 1e-10)])


def as_it_is(level):
    return level.astype(np.float32)


def broken(signal, sr, level):
    raise RuntimeError("no such codec")


LEVEL = FeatureSpec("level", "The level and nothing else", level, as_it_is, n_features=1)
BROKEN = StressSpec("broken", "Always fails", broken, levels=(1.0,), thresholds={"unchanged": 0.9})
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Folder with a corpus of ten speakers, and the CSVs of those to train on and of those to ask about."""
    folder = write_corpus(tmp_path_factory.mktemp("stress"), n_speakers=10)
    with open(folder / "manifest.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, speakers in {"train": "0123", "test": "456789"}.items():
        pd.DataFrame([row for row in rows if row["speaker"][1:] in speakers]).to_csv(
            folder / f"{name}.csv", index=False
        )
    return folder


def fit(corpus, spec=None, gains=None):
    """Return the bundle of a model that was fitted on the speakers of train.csv."""
    spec = spec or get_features("mfcc40")
    rows = pd.read_csv(corpus / "train.csv")
    heard = [read_audio(corpus / path) for path in rows["path"]]
    factors = np.ones(len(rows)) if gains is None else rows["emotion"].map(gains)
    X = np.stack(
        [vectorise(spec, one.signal * np.float32(f), one.sr, path="") for one, f in zip(heard, factors, strict=True)]
    )
    estimator = build(get_model("logistic"), {}, random_state=0)
    estimator.fit(X, np.searchsorted(CLASSES, rows["emotion"]))
    about = {"features": spec.specification(), "sr": spec.sr, "audio_ids": [one.content for one in heard]}
    return bundle_of(estimator, X, model="logistic", classes=CLASSES, **about)


@pytest.fixture(scope="module")
def bundle(corpus):
    return fit(corpus)


def ask(bundle, corpus, stresses, name="test.csv", **more):
    return stress_bundle(bundle, corpus_of("manifest", corpus, corpus / name), stresses=stresses, n_jobs=1, **more)


def originals(corpus, name="test.csv"):
    return [
        Original(read_audio(corpus / row.path).clip, corpus / row.path, row.speaker)
        for row in pd.read_csv(corpus / name).itertuples()
    ]


def value(table, stress, measure, level=None):
    found = table[(table["stress"] == stress) & (table["measure"] == measure)]
    return found[found["level"] == level].iloc[0] if level is not None else found.iloc[0]


# --- copies -----------------------------------------------------------------------------------------------------------


def test_babble_of_the_test_speaker_is_refused(corpus):
    one, same = originals(corpus)[:2]
    assert one.speaker == same.speaker
    with pytest.raises(DataError, match=f"is by '{one.speaker}' too"):
        Copy(one, Change("babble", 10), (same,))


def test_babble_takes_one_recording_each_of_other_speakers(corpus):
    for copy in copies_of(originals(corpus), Change("babble", 10)):
        speakers = [voice.speaker for voice in copy.voices]
        assert copy.original.speaker not in speakers
        assert len(set(speakers)) == len(speakers) == 5


def test_babble_of_a_recording_depends_neither_on_order_nor_level_nor_on_which_are_asked(corpus):
    some = originals(corpus)
    by_clip = {copy.original.clip: copy.voices for copy in copies_of(some, Change("babble", 10))}
    assert by_clip == {copy.original.clip: copy.voices for copy in copies_of(some[::-1], Change("babble", 0))}
    [alone] = copies_of(some, Change("babble", 10), rows=[7])
    assert alone.voices == by_clip[some[7].clip]
    assert by_clip != {copy.original.clip: copy.voices for copy in copies_of(some, Change("babble", 10, seed=1))}


def test_babble_takes_at_least_two_other_speakers(corpus):
    two = [one for one in originals(corpus) if one.speaker in ("s4", "s5")]
    with pytest.raises(DataError, match="has 1 besides 's4'"):
        copies_of(two, Change("babble", 10))


def test_a_copy_is_known_by_recording_change_and_voices(corpus):
    one, *others = originals(corpus)
    voices = [voice for voice in others if voice.speaker != one.speaker]
    copies = [
        *(Copy(one, Change("gain", level)) for level in (6, 20)),
        Copy(others[0], Change("gain", 6)),
        Copy(one, Change("room", 0.3)),
        Copy(one, Change("room", 0.3, seed=1)),
        Copy(one, Change("babble", 0), tuple(voices[:2])),
        Copy(one, Change("babble", 0), tuple(voices[1:3])),
    ]
    assert len({copy.clip for copy in copies} | {one.clip}) == len(copies) + 1
    assert Copy(one, Change("gain", 6.0)).clip == copies[0].clip


def test_a_copy_has_the_identity_of_its_recording(corpus):
    one = originals(corpus)[0]
    audio, made = read_audio(one.path), Copy(one, Change("gain", 6)).make(DEFAULT_POLICY)
    assert made.content == audio.content
    np.testing.assert_allclose(made.signal, audio.signal * 10**0.3, rtol=1e-6)


def test_a_copy_of_a_file_that_changed_is_refused(corpus, tmp_path):
    shutil.copy(originals(corpus)[0].path, tmp_path / "a.wav")
    with pytest.raises(AudioError, match="changed since it was hashed"):
        Copy(Original("0" * 64, tmp_path / "a.wav", "s4"), Change("gain", 6)).make(DEFAULT_POLICY)


def test_the_store_computes_copies_once_and_beside_their_recordings(corpus, tmp_path):
    store, spec = FeatureStore(tmp_path), get_features("mfcc40")
    recordings = originals(corpus)[:3]
    copies = copies_of(recordings, Change("white-noise", 10))
    asked = [*((one.clip, one.path) for one in recordings), *((copy.clip, copy) for copy in copies)]
    with Pool(1) as pool:
        [first] = store.extract([spec], asked, policy=DEFAULT_POLICY, pool=lambda: pool)
    [again] = store.extract([spec], asked, policy=DEFAULT_POLICY, pool=lambda: pytest.fail("nothing is missing"))
    assert (first.n_computed, again.n_computed) == (6, 0)
    np.testing.assert_array_equal(first.X, again.X)
    made = copies[0].make(DEFAULT_POLICY)
    np.testing.assert_allclose(first.X[3], vectorise(spec, made.signal, made.sr, path=""), rtol=1e-5, atol=1e-4)
    assert not np.allclose(first.X[3], first.X[0], atol=1)


# --- figures ----------------------------------------------------------------------------------------------------------


def answers(n_speakers=12, share=0.25, seed=0):
    """Return random answers of one entry: clean, and under one stress that changes a share of them."""
    rng = np.random.default_rng(seed)
    n = n_speakers * 30
    speakers = np.repeat([f"s{number}" for number in range(n_speakers)], 30)
    y_true = np.tile(CLASSES, n // 3)
    y_clean = np.where(rng.random(n) < 0.7, y_true, rng.choice(CLASSES, n))
    y_stressed = np.where(rng.random(n) < share, rng.choice(CLASSES, n), y_clean)
    about = pd.DataFrame(
        {
            **{"corpus": "c", "features": "f", "protocol": "p", "entry": "e", "repeat": 0, "fold": 0},
            **{"utterance": [f"u{number:04d}" for number in range(n)], "speaker": speakers},
            **{"sex": np.where([int(speaker[1:]) % 2 for speaker in speakers], "male", "female")},
            **{"f0_hz": rng.uniform(80, 260, n), "y_true": y_true, "confidence": 0.5, "error": ""},
        }
    )
    clean = about.assign(stress=CLEAN, level=np.nan, y_pred=y_clean)
    stressed = about.assign(stress="noise", level=10.0, y_pred=y_stressed)
    return pd.concat([clean, stressed.sample(frac=1, random_state=0)], ignore_index=True)[list(ANSWERS)]


def table(frame, thresholds=None):
    return describe(frame, {"c": CLASSES}, thresholds or {})


def test_figures_are_what_they_are_called():
    frame = answers()
    clean, noisy = (frame[frame["stress"] == name].sort_values("utterance") for name in (CLEAN, "noise"))

    def uar(part):
        codes = [np.searchsorted(CLASSES, part[name]) for name in ("y_true", "y_pred")]
        return score("uar", *codes, 3)[0]

    found = table(frame)
    assert value(found, CLEAN, "uar")["value"] == pytest.approx(uar(clean))
    assert value(found, "noise", "uar")["value"] == pytest.approx(uar(noisy))
    assert value(found, "noise", "delta_uar")["value"] == pytest.approx(uar(noisy) - uar(clean))
    same = np.mean(clean["y_pred"].to_numpy() == noisy["y_pred"].to_numpy())
    assert value(found, "noise", "unchanged")["value"] == pytest.approx(same)
    for row in found[found["low"].notna()].itertuples():
        assert row.low <= row.value <= row.high


def test_answers_that_stay_are_exactly_no_difference():
    frame = answers(share=0)
    found = table(frame, {("noise", 10.0): {"unchanged": 0.95, "delta_uar": -0.05}})
    for measure, expected in {"unchanged": 1, "delta_uar": 0}.items():
        row = value(found, "noise", measure)
        assert (row["value"], row["low"], row["high"], row["verdict"]) == (expected, expected, expected, "pass")


def test_the_interval_of_a_drop_is_paired():
    """Speakers differ by far more than their drops do."""
    row, alone = (
        value(table(answers(share=0.1)), "noise", "delta_uar"),
        value(table(answers(share=0.1)), "noise", "uar"),
    )
    assert row["high"] - row["low"] < alone["high"] - alone["low"]


def test_the_gap_between_the_sexes_is_that_of_the_slices():
    frame = answers()
    row = table(frame).query("group == 'female-male'").iloc[0]
    clean = frame[frame["stress"] == CLEAN]
    a, b = (count_rows(clean[clean["sex"] == sex], CLASSES) for sex in ("female", "male"))
    expected = slices.difference(a, b)
    assert (row["low"], row["high"]) == (expected.low, expected.high)
    assert row["low"] <= row["value"] <= row["high"]


def test_gaps_between_groups_of_pitch_are_of_the_recordings():
    frame = answers()
    clean = frame[frame["stress"] == CLEAN]
    is_low = (clean["f0_hz"] <= 145).to_numpy()
    codes = {name: np.searchsorted(CLASSES, clean[name]) for name in ("y_true", "y_pred")}
    uars = [score("uar", codes["y_true"][rows], codes["y_pred"][rows], 3)[0] for rows in (is_low, ~is_low)]
    row = table(frame).query("group == 'low pitch-others'").iloc[0]
    assert row["value"] == pytest.approx(uars[0] - uars[1])
    assert row["n_utterances"] == is_low.sum()


def test_a_model_that_fails_one_sex_fails():
    frame = answers()
    is_wrong = (frame["sex"] == "male") & (frame["stress"] == CLEAN)
    frame.loc[is_wrong, "y_pred"] = "sad"
    frame.loc[(frame["sex"] == "female") & (frame["stress"] == CLEAN), "y_pred"] = frame["y_true"]
    assert table(frame).query("group == 'female-male'").iloc[0]["verdict"] == "fail"


@pytest.mark.parametrize(
    "low, high, expected",
    [
        *((0.95, 1.0, "pass"), (0.9, 0.94, "fail"), (0.9, 1.0, "inconclusive"), (np.nan, np.nan, "inconclusive")),
        (0.9, 0.95, "inconclusive"),
    ],
)
def test_verdict_follows_the_interval(low, high, expected):
    assert verdict(Interval(low, high), 0.95) == expected


def test_few_speakers_are_inconclusive_with_the_reason():
    found = table(answers(n_speakers=4), {("noise", 10.0): {"unchanged": 0.9}})
    row = value(found, "noise", "unchanged")
    assert row["verdict"] == "inconclusive"
    assert "at least 6 speakers" in row["reason"]


def test_a_stress_that_failed_is_a_row_with_its_reason():
    frame = answers()
    chosen = frame.index[frame["stress"] == "noise"][:2]
    frame.loc[chosen, ["y_pred", "error"]] = ["", "no such codec."]
    row = value(table(frame, {("noise", 10.0): {"unchanged": 0.9}}), "noise", "unchanged")
    assert np.isnan(row["value"])
    assert row["verdict"] == "inconclusive"
    assert row["reason"] == "2 of 360 recordings could not be stressed: no such codec."


def test_worst_names_each_stress_once_the_largest_drop_first():
    rows = [("a", 1.0, -0.1), ("a", 2.0, -0.3), ("b", 1.0, -0.2), ("c", 1.0, 0.1)]
    frame = pd.DataFrame(
        [
            {"stress": s, "level": level, "measure": m, "value": v, "low": v, "high": v}
            for s, level, drop in rows
            for m, v in (("delta_uar", drop), ("unchanged", 0.75))
        ]
    )
    assert [line.split(":")[0] for line in worst(frame)] == ["a 2", "b 1"]
    assert "falls by 0.300" in worst(frame)[0]
    assert "25% of the answers change" in worst(frame)[0]


# --- asking -----------------------------------------------------------------------------------------------------------


def test_identity_changes_no_answer(bundle, corpus):
    found = ask(bundle, corpus, {"gain": [0], "speed": [1], "tilt": [0]}).table
    for stress in ("gain", "speed", "tilt"):
        for measure, expected in {"unchanged": 1, "delta_uar": 0}.items():
            row = value(found, stress, measure)
            assert (row["value"], row["low"], row["high"]) == (expected, expected, expected)


def test_a_model_that_reads_only_the_level_fails_gain_and_nothing_else(corpus):
    rows = pd.read_csv(corpus / "test.csv")
    for path in rows["path"]:
        audio = read_audio(corpus / path)
        (corpus / "even" / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(corpus / "even" / path, audio.signal * 0.03 / np.sqrt(np.mean(audio.signal**2)), audio.sr)
    rows.assign(path="even/" + rows["path"]).to_csv(corpus / "even.csv", index=False)
    with using([PluginFile("mine.py", LEVEL_ONLY)]):
        bundle = fit(corpus, get_features("level"), gains={"angry": 1, "happy": 0.2, "sad": 0.04})
        found = ask(bundle, corpus, {"gain": [-20, 20], "offset": [0.001], "clipping": [0.001]}, name="even.csv").table
    unchanged = found[found["measure"] == "unchanged"].set_index(["stress", "level"])["verdict"]
    assert unchanged.to_dict() == {
        **{("gain", -20.0): "fail", ("gain", 20.0): "fail"},
        **{("clipping", 0.001): "pass", ("offset", 0.001): "pass"},
    }


def test_a_corpus_that_the_model_was_trained_on_is_refused(bundle, corpus):
    with pytest.raises(DataError, match=r"trained on 24 of these 60(?s:.*)the model has not heard"):
        ask(bundle, corpus, {"gain": [6]}, name="manifest.csv")


def test_a_bundle_that_does_not_say_what_it_was_trained_on_is_refused(bundle, corpus):
    with pytest.raises(DataError, match="nobody can know"):
        ask(changed(bundle, audio_ids=[]), corpus, {"gain": [6]})


def test_emotions_that_the_model_does_not_know_are_left_out_and_counted(bundle, corpus):
    rows = pd.read_csv(corpus / "test.csv")
    rows.loc[rows["emotion"] == "sad", "emotion"] = "bored"
    rows.to_csv(corpus / "bored.csv", index=False)
    found = ask(bundle, corpus, {"gain": [0]}, name="bored.csv")
    assert any("left out what logistic does not know: bored 12" in remark for remark in found.remarks)
    assert any("has no sad, so UAR is over 2 emotions" in remark for remark in found.remarks)
    assert value(found.table, CLEAN, "uar")["n_utterances"] == 24
    assert np.isfinite(value(found.table, CLEAN, "uar")["value"])


def test_a_corpus_without_common_emotions_is_refused(bundle, corpus):
    pd.read_csv(corpus / "test.csv").replace({"sad": "bored", "happy": "tired"}).to_csv(corpus / "odd.csv", index=False)
    with pytest.raises(DataError, match="at least two of the emotions"):
        ask(bundle, corpus, {"gain": [0]}, name="odd.csv")


def test_an_unknown_stress_is_named(bundle, corpus):
    with pytest.raises(UnknownNameError, match="Did you mean 'babble'"):
        ask(bundle, corpus, {"bable": []})


def test_the_same_seed_gives_the_same_answers_whatever_the_workers(bundle, corpus, monkeypatch, tmp_path):
    stresses = {"white-noise": [5], "babble": [0], "room": [0.7]}
    found = []
    for n_jobs, seed in ((1, 0), (2, 0), (1, 1)):
        monkeypatch.setenv("EMOBENCH_STORE", str(tmp_path / f"{n_jobs}-{seed}"))
        asked = stress_bundle(
            bundle, corpus_of("manifest", corpus, corpus / "test.csv"), stresses=stresses, seed=seed, n_jobs=n_jobs
        )
        found.append(asked.answers)
    pd.testing.assert_frame_equal(found[0], found[1])
    assert not found[0]["confidence"].equals(found[2]["confidence"])


def test_all_changes_are_the_levels_of_the_rows():
    assert len(all_changes([*STRESSES])) == sum(len(row.levels) for row in STRESSES.values())
    assert all_changes({"gain": [3, 3], "pad": []}, seed=2) == [
        Change("gain", 3.0, 2),
        *(Change("pad", level, 2) for level in STRESSES["pad"].levels),
    ]


# --- the command ------------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["stress", *map(str, arguments)])
    done = capsys.readouterr()
    return left.value.code, done.out, done.err


@pytest.fixture
def saved(bundle, tmp_path):
    write_bundle(tmp_path / "bundle", bundle)
    return tmp_path / "bundle"


def test_command_prints_the_table_and_writes_the_same_csv_again(capsys, saved, corpus, tmp_path):
    of_corpus = ("--corpus", "manifest", "--root", corpus, "--path", corpus / "test.csv", "--n-jobs", 1, "--quiet")
    asked = ("--stress", "gain:-20,20", "--stress", "white-noise:0")
    for name in ("a.csv", "b.csv"):
        code, out, err = run(capsys, saved, *of_corpus, *asked, "--output", tmp_path / name)
        assert (code, err) == (0, "")
        assert [line.split()[0] for line in out.splitlines()][:5] == ["stress", "clean", "gain", "gain", "white-noise"]
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    code, out, _ = run(capsys, saved, *of_corpus, *asked, "--json")
    rows = json.loads(out)["stress"]
    assert len(rows) == len(pd.read_csv(tmp_path / "a.csv"))


def test_command_saves_recordings_whose_answers_flipped(capsys, saved, corpus, tmp_path, bundle):
    code, _, err = run(
        capsys,
        *(saved, "--corpus", "manifest", "--root", corpus, "--path", corpus / "test.csv", "--n-jobs", 1),
        *("--stress", "white-noise:-10", "--stress", "pitch:12", "--save-worst", 3, tmp_path / "worst"),
    )
    assert code == 0, err
    found = pd.read_csv(tmp_path / "worst" / "worst.csv")
    assert len(found) == 3
    assert (found["y_clean"] == found["y_true"]).all()
    assert (found["y_pred"] != found["y_true"]).all()
    assert found["confidence"].is_monotonic_decreasing
    from emobench.prediction.predictor import Predictor

    predictor = Predictor(bundle)
    for row in found.itertuples():
        sr, signal = wavfile.read(tmp_path / "worst" / row.file)
        assert predictor.predict(signal, sr).emotion == row.y_pred


def test_command_leaves_with_4_where_a_stress_failed_and_measures_the_others(capsys, saved, corpus, tmp_path):
    (tmp_path / "mine.py").write_text(LEVEL_ONLY)
    code, out, err = run(
        capsys,
        *(saved, "--corpus", "manifest", "--root", corpus, "--path", corpus / "test.csv", "--n-jobs", 1),
        *("--stress", "broken", "--stress", "gain:0", "--plugin", tmp_path / "mine.py"),
    )
    assert code == 4
    assert "some recordings could not be stressed: broken" in err
    assert "1.000 [1.000, 1.000]" in out


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("--stress", "gain:loud"), 2, "levels must be numbers"),
        (("--stress", "gian"), 2, "Did you mean 'gain'"),
        (("--stress", "gain:nan"), 2, "finite number"),
        (("--corpus", "ravdes"), 2, "Did you mean 'ravdess'"),
    ],
)
def test_command_refuses(capsys, saved, corpus, arguments, code, message):
    of_corpus = (
        () if "--corpus" in arguments else ("--corpus", "manifest", "--root", corpus, "--path", corpus / "test.csv")
    )
    found, _, err = run(capsys, saved, *of_corpus, *arguments)
    assert found == code
    assert message in err
