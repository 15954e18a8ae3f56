"""librosa is the oracle of frames; how speech is found, levelled, cut and padded is held by its properties."""

import hypothesis
import hypothesis.strategies as st
import librosa
import numpy as np
import pytest

from emobench.features.frames import (
    ACTIVE_DB,
    N_FRAMES,
    SILENCE_DB,
    cepstral_windows,
    log_mel_windows,
    speech_log_mel,
)
from emobench.features.mfcc import mel_filters

SR = 16_000
HOP = 160

pytestmark = pytest.mark.filterwarnings("ignore:n_fft=512 is too large:UserWarning")


def make_noise(duration_s, *, seed=0, scale=0.1):
    return np.random.default_rng(seed).normal(scale=scale, size=round(duration_s * SR)).astype(np.float32)


def make_syllables(duration_s, *, seed=0):
    """Return noise whose level goes up and down four times a second, as that of speech does."""
    time_s = np.arange(round(duration_s * SR)) / SR
    return (make_noise(duration_s, seed=seed) * np.sin(4 * np.pi * time_s) ** 2).astype(np.float32)


def silence(duration_s):
    return np.zeros(round(duration_s * SR), dtype=np.float32)


def oracle(signal, n_mels=64):
    """Return the log-mel energies of the speech by librosa, and the rows of the whole recording that they are."""
    stft = librosa.stft(signal, n_fft=512, win_length=400, hop_length=HOP)
    power = np.abs(stft) ** 2
    energy = power.sum(axis=0)
    active = np.flatnonzero(librosa.power_to_db(energy, ref=np.max, amin=1e-30, top_db=None) >= ACTIVE_DB)
    mel = librosa.feature.melspectrogram(S=power, sr=SR, n_mels=n_mels)
    level = energy[active].mean()
    decibel = librosa.power_to_db(mel / level, ref=1.0, amin=10 ** (SILENCE_DB / 10), top_db=None)
    return decibel[:, active[0] : active[-1] + 1]


SIGNALS = {
    "noise": make_noise(1.0),
    "faint": make_noise(1.0, scale=1e-4),
    "syllables": make_syllables(2.0),
    "speech in silence": np.concatenate([silence(0.7), make_syllables(1.5), silence(0.9)]),
    "speech in noise": np.concatenate([silence(0.7), make_syllables(1.5), silence(0.9)]) + make_noise(3.1, scale=1e-5),
    "tone": np.sin(2 * np.pi * 440 * np.arange(SR) / SR).astype(np.float32),
    "one sample": np.ones(1, dtype=np.float32),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_speech_log_mel_equals_librosa(name):
    expected = oracle(SIGNALS[name])
    log_mel = speech_log_mel(SIGNALS[name], sr=SR)
    assert log_mel.dtype == np.float32
    assert log_mel.shape == expected.shape
    np.testing.assert_allclose(log_mel, expected, atol=2e-2)  # dB; far below the tone's level float32 is noise
    assert np.abs(log_mel - expected).mean() < 1e-3


@hypothesis.given(st.integers(1, 30_000), st.floats(1e-4, 1e3), st.integers(0, 99))
@hypothesis.settings(max_examples=20, deadline=None)
def test_speech_log_mel_equals_librosa_at_any_length_and_level(n_samples, scale, seed):
    signal = np.random.default_rng(seed).normal(scale=scale, size=n_samples).astype(np.float32)
    np.testing.assert_allclose(speech_log_mel(signal, sr=SR), oracle(signal), atol=1e-2)


@pytest.mark.parametrize("n_mels", [40, 64, 80])
def test_mel_filters_of_frames_equal_librosa(n_mels):
    expected = librosa.filters.mel(sr=SR, n_fft=512, n_mels=n_mels)
    found = mel_filters(SR, n_fft=512, n_mels=n_mels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * expected.max())


def test_speech_log_mel_does_not_hear_the_distance_of_the_microphone():
    signal = make_syllables(1.5)
    np.testing.assert_allclose(speech_log_mel(signal, sr=SR), speech_log_mel(0.01 * signal, sr=SR), atol=1e-2)


def test_speech_log_mel_does_not_hear_silence_around_the_speech():
    speech = make_syllables(1.5)
    embedded = np.concatenate([silence(1.0), speech, silence(2.0)])  # both are a whole number of hops
    alone, found = speech_log_mel(speech, sr=SR), speech_log_mel(embedded, sr=SR)
    np.testing.assert_allclose(found, alone, atol=1e-2)
    assert found.shape[1] <= 1 + len(speech) // HOP


def test_speech_log_mel_keeps_a_pause_between_words():
    signal = np.concatenate([make_noise(0.5), silence(0.6), make_noise(0.5)])
    log_mel = speech_log_mel(signal, sr=SR)
    assert log_mel.shape[1] == pytest.approx(160, abs=3)
    assert (log_mel[:, 60:100] == SILENCE_DB).all()


@pytest.mark.parametrize("n_samples", [1, 399, 16_000])
def test_speech_log_mel_of_silence_is_silence(n_samples):
    log_mel = speech_log_mel(np.zeros(n_samples, dtype=np.float32), sr=SR)
    assert log_mel.shape == (64, 1 + n_samples // HOP)
    assert (log_mel == SILENCE_DB).all()


def test_speech_log_mel_does_not_change_the_signal():
    signal = make_noise(0.2)
    signal.setflags(write=False)
    speech_log_mel(signal, sr=SR)


def make_frames(n_frames, n_mels=4):
    """Return frames that say where they stand: channel 0 counts them."""
    frames = np.zeros((n_mels, n_frames), dtype=np.float32)
    frames[0] = np.arange(n_frames)
    return frames


@pytest.mark.parametrize("n_frames", [1, 299])
def test_log_mel_windows_pad_short_speech_with_silence(n_frames):
    windows = log_mel_windows(make_frames(n_frames))
    assert windows.shape == (1, N_FRAMES, 4)
    np.testing.assert_array_equal(windows[0, :n_frames].T, make_frames(n_frames))
    assert (windows[0, n_frames:] == SILENCE_DB).all()


@hypothesis.given(st.integers(1, 5000))
@hypothesis.example(300)
@hypothesis.example(301)
@hypothesis.example(600)
def test_log_mel_windows_are_the_fewest_that_reach_every_frame(n_frames):
    windows = log_mel_windows(make_frames(n_frames))
    positions = windows[:, :, 0]
    assert windows.dtype == np.float32
    assert len(windows) == max(1, -(-n_frames // N_FRAMES))
    assert set(range(n_frames)) <= set(positions.ravel())
    starts = positions[:, 0]
    assert n_frames < N_FRAMES or (starts[0], positions[-1, -1]) == (0, n_frames - 1)
    assert len(starts) < 3 or np.ptp(np.diff(starts)) <= 1


def test_cepstral_windows_equal_librosa():
    log_mel = speech_log_mel(make_syllables(4.0), sr=SR)
    windows, expected = cepstral_windows(log_mel), log_mel_windows(log_mel)
    assert windows.shape == (2, N_FRAMES, 40)
    assert windows.dtype == np.float32
    for window, mel in zip(windows, expected, strict=True):
        np.testing.assert_allclose(window.T, librosa.feature.mfcc(S=mel.T, n_mfcc=40), atol=1e-3)
