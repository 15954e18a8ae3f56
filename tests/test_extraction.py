"""One pass over a recording serves every feature set, and what a worker says of a recording is right."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from emobench.audio import AudioPolicy, decoding
from emobench.audio.decoding import hash_file, read_audio
from emobench.errors import AudioError
from emobench.features import FEATURES, mfcc
from emobench.features import extraction as module
from emobench.features.extraction import extract_clips, vectorise

SR = 22_050
MEANS, STATS = FEATURES["mfcc40"], FEATURES["mfcc40_stats"]
POLICY = AudioPolicy()


@pytest.fixture
def clip(tmp_path):
    return write_wav(tmp_path / "x.wav")


def write_wav(path, *, duration_s=0.5, sr=48_000):
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=int(duration_s * sr)), sr)
    return hash_file(path), path


def counted(function, calls):
    def call(*arguments, **options):
        calls.append(function.__name__)
        return function(*arguments, **options)

    return call


def test_feature_sets_share_decoding_resampling_and_frames(clip, monkeypatch):
    calls = []
    for place, name in ((decoding, "read_bytes"), (decoding, "decode"), (module, "resample")):
        monkeypatch.setattr(place, name, counted(getattr(place, name), calls))
    monkeypatch.setattr(mfcc, "mfcc", counted(mfcc.mfcc, calls))
    [found] = extract_clips([MEANS, STATS], [clip], POLICY)
    assert sorted(calls) == ["decode", "mfcc", "read_bytes", "resample"]
    assert [vector.shape for vector in found.vectors] == [(40,), (160,)]


def test_feature_sets_together_are_what_each_is_alone(clip):
    others = [
        replace(MEANS, params={"n_mfcc": 13}, n_features=13),
        replace(MEANS, sr=16_000),
        replace(STATS, sr=16_000),
    ]
    specs = [MEANS, STATS, *others]
    [found] = extract_clips(specs, [clip], POLICY)
    recording = read_audio(clip[1])
    for spec, vector in zip(specs, found.vectors, strict=True):
        np.testing.assert_array_equal(vector, vectorise(spec, recording.signal, recording.sr, path="x"))
    np.testing.assert_array_equal(found.vectors[0], found.vectors[1][:40])
    assert not np.array_equal(found.vectors[0], found.vectors[3])


def test_extraction_describes_the_recording(clip):
    [found] = extract_clips([MEANS], [clip], POLICY)
    assert (found.audio, found.duration_s, found.is_silent) == (read_audio(clip[1]).content, 0.5, False)
    assert found.remarks == ("",)


def test_feature_set_that_does_not_take_a_recording_does_not_disturb_the_others(tmp_path):
    clip = write_wav(tmp_path / "short.wav", duration_s=0.15)
    [found] = extract_clips([STATS, MEANS], [clip], POLICY)
    fault, vector = found.vectors
    assert isinstance(fault, AudioError)
    assert fault.path == str(clip[1])
    assert fault.reason == (
        "must have at least 4096 samples at 22050 Hz (0.186 s) for mfcc40_stats. It has 3308. "
        "Remove it, or leave mfcc40_stats out."
    )
    assert np.isfinite(vector).all()


def test_remarks_are_of_each_feature_set(tmp_path):
    [found] = extract_clips([MEANS, replace(MEANS, sr=8_000)], [write_wav(tmp_path / "low.wav", sr=16_000)], POLICY)
    assert found.remarks == ("recorded at 16000 Hz, below the 22050 Hz of mfcc40: its upper bands are empty", "")


def test_what_is_hashed_is_what_is_decoded(clip, monkeypatch):
    """The file is read once: one rewritten after that read changes nothing."""
    [expected] = extract_clips([MEANS], [clip], POLICY)
    read = decoding.read_bytes

    def read_and_rewrite(*arguments):
        data = read(*arguments)
        clip[1].write_bytes(b"something else")
        return data

    monkeypatch.setattr(decoding, "read_bytes", read_and_rewrite)
    [found] = extract_clips([MEANS], [clip], POLICY)
    np.testing.assert_array_equal(found.vectors[0], expected.vectors[0])
    [fault] = extract_clips([MEANS], [clip], POLICY)
    assert "must not change during a run" in fault.reason


def test_frames_cannot_be_changed_by_a_summary(clip, monkeypatch):
    def spoil(frames):
        frames[:] = 0

    monkeypatch.setattr("emobench.features.mfcc.time_mean", spoil)
    [found] = extract_clips([MEANS, STATS], [clip], POLICY)
    assert "mfcc40 failed on it: ValueError: assignment destination is read-only" in found.vectors[0].reason
    np.testing.assert_array_equal(found.vectors[1], extract_clips([STATS], [clip], POLICY)[0].vectors[0])


def test_features_of_another_shape_are_an_error():
    with pytest.raises(AudioError, match=r"x: mfcc40 must have shape \(7,\). Got \(40,\)"):
        vectorise(replace(MEANS, n_features=7), np.ones(SR, np.float32), SR, path="x")


def test_signal_too_short_for_its_features_is_an_error():
    with pytest.raises(AudioError, match=r"must have at least 500 samples at 22050 Hz \(0.0227 s\) for mfcc40. It has"):
        vectorise(replace(MEANS, min_samples=500), np.ones(100, np.float32), 8_000, path="x")


def test_feature_set_that_raises_names_the_recording():
    with pytest.raises(AudioError, match=r"^x\.wav: mfcc40 failed on it: TypeError: .*n_mfc"):
        vectorise(replace(MEANS, params={"n_mfc": 1}), np.ones(SR, np.float32), SR, path="x.wav")
