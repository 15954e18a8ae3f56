"""librosa is the oracle of every number; the contract of a feature set is held by every row of `FEATURES`."""

import dataclasses
import io
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import librosa
import numpy as np
import pytest
import soundfile

from emobench import features as module
from emobench.audio.decoding import decode, read_audio, resample
from emobench.errors import AudioError, UnknownNameError
from emobench.features import FEATURES, feature_key, get_features, library_versions
from emobench.features.extraction import vectorise
from emobench.features.mfcc import delta, mel_filters, mfcc, time_mean
from emobench.files import digest
from emobench.registry import resolve

SR = 22_050
MFCC40, STATS = FEATURES["mfcc40"], FEATURES["mfcc40_stats"]
RAVDESS = Path(__file__).parents[2] / "shared" / "data" / "ravdess"

pytestmark = pytest.mark.filterwarnings("ignore:n_fft=2048 is too large:UserWarning", "ignore::DeprecationWarning")


def make_noise(n_samples=SR, *, seed=0, scale=0.1):
    return np.random.default_rng(seed).normal(scale=scale, size=n_samples).astype(np.float32)


def oracle(signal):
    return librosa.feature.mfcc(y=signal, sr=SR, n_mfcc=40).mean(axis=1)


def statistics_oracle(signal):
    """Return the four statistics of 40 MFCC by librosa alone, shape (4, 40)."""
    coefficients = librosa.feature.mfcc(y=signal, sr=SR, n_mfcc=40)
    deltas = [librosa.feature.delta(coefficients, order=order) for order in (1, 2)]
    return np.stack([coefficients.mean(axis=1), *(one.std(axis=1) for one in (coefficients, *deltas))])


def assert_equals_oracle(vector, signal):
    expected = oracle(signal)
    np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def assert_statistics_equal_oracle(vector, signal):
    """Hold the whole vector to a ten-thousandth of its largest number, as the design says, and each statistic too."""
    expected = statistics_oracle(signal)
    scale = np.abs(expected).max(axis=1, keepdims=True)
    # Sums of float32 are off by some 1e-7 of the largest MFCC, here and in librosa.
    tolerance = 1e-4 * scale + 1e-6 * scale.max()
    assert np.all(np.abs(vector.reshape(4, 40) - expected) <= tolerance)


TIME_S = np.arange(SR) / SR
SIGNALS = {
    "noise": make_noise(),
    "faint noise": make_noise(scale=1e-5),
    "loud noise": make_noise(scale=1e4),
    "tone": np.sin(2 * np.pi * 440 * TIME_S).astype(np.float32),
    "chirp": np.sin(2 * np.pi * 5000 * TIME_S**2).astype(np.float32),
    "silence": np.zeros(SR, dtype=np.float32),
    "constant": np.full(SR, 0.5, dtype=np.float32),
    "clipped": np.clip(20 * make_noise(), -1, 1),
    "click": np.eye(1, SR, 9000, dtype=np.float32)[0],
    "silence, then noise": np.concatenate([np.zeros(SR, dtype=np.float32), make_noise()]),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_mfcc40_equals_librosa(name):
    vector = MFCC40(SIGNALS[name])
    assert vector.shape == (40,)
    assert vector.dtype == np.float32
    assert_equals_oracle(vector, SIGNALS[name])


@pytest.mark.parametrize("n_samples", [1, 2, 511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049, 3000])
def test_mfcc40_of_very_short_signal_equals_librosa(n_samples):
    signal = make_noise(n_samples)
    assert_equals_oracle(MFCC40(signal), signal)


@hypothesis.given(st.integers(1, 30_000), st.floats(1e-6, 1e3), st.integers(0, 99))
@hypothesis.settings(max_examples=30, deadline=None)
def test_mfcc40_equals_librosa_at_any_length_and_level(n_samples, scale, seed):
    signal = make_noise(n_samples, seed=seed, scale=scale)
    assert_equals_oracle(MFCC40(signal), signal)


@pytest.mark.parametrize("name", SIGNALS)
def test_mfcc40_stats_equals_librosa(name):
    assert_statistics_equal_oracle(STATS(SIGNALS[name]), SIGNALS[name])


@hypothesis.given(st.integers(STATS.min_samples, 30_000), st.floats(1e-6, 1e3), st.integers(0, 99))
@hypothesis.example(STATS.min_samples, 1.0, 0)
@hypothesis.settings(max_examples=30, deadline=None)
def test_mfcc40_stats_equals_librosa_at_any_length_and_level(n_samples, scale, seed):
    signal = make_noise(n_samples, seed=seed, scale=scale)
    assert_statistics_equal_oracle(STATS(signal), signal)


def test_mfcc40_stats_takes_nine_frames_and_no_fewer():
    assert mfcc(make_noise(STATS.min_samples), sr=SR, n_mfcc=40).shape == (40, 9)
    assert mfcc(make_noise(STATS.min_samples - 1), sr=SR, n_mfcc=40).shape == (40, 8)
    with pytest.raises(AudioError, match="at least 4096 samples"):
        vectorise(STATS, make_noise(STATS.min_samples - 1), SR, path="x")


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("n_frames", [9, 10, 11, 17, 200])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_delta_equals_librosa(order, n_frames, dtype):
    coefficients = (100 * np.random.default_rng(0).normal(size=(13, n_frames))).astype(dtype)
    expected = librosa.feature.delta(coefficients, order=order)
    found = delta(coefficients, order=order)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=np.finfo(dtype).eps * 1000)


def test_delta_of_a_line_is_its_slope_and_of_a_parabola_its_curvature():
    frames = np.arange(20.0)[np.newaxis]
    np.testing.assert_allclose(delta(3 * frames), 3)
    np.testing.assert_allclose(delta(3 * frames, order=2), 0, atol=1e-9)
    np.testing.assert_allclose(delta(frames**2, order=2), 2)


@pytest.mark.parametrize("sr", [4_000, 8_000, 16_000, 22_050, 44_100, 192_000])
def test_mel_filters_equal_librosa(sr):
    with warnings.catch_warnings(action="ignore"):  # of bands between two bins
        expected = librosa.filters.mel(sr=sr, n_fft=2048)
    np.testing.assert_allclose(mel_filters(sr), expected, rtol=0, atol=1e-6 * expected.max())


def test_mel_filters_of_any_number_of_bands_equal_librosa():
    expected = librosa.filters.mel(sr=16_000, n_fft=512, n_mels=26, fmin=60)
    found = mel_filters(16_000, n_fft=512, n_mels=26, lowest_hz=60)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * expected.max())


@pytest.mark.parametrize("n_mfcc", [1, 13, 40, 128])
def test_mfcc_equals_librosa_frame_by_frame(n_mfcc):
    signal = make_noise(30_000)
    expected = librosa.feature.mfcc(y=signal, sr=16_000, n_mfcc=n_mfcc)
    coefficients = mfcc(signal, sr=16_000, n_mfcc=n_mfcc)
    assert coefficients.dtype == np.float32
    np.testing.assert_allclose(coefficients, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_mfcc_of_long_signal_is_computed_in_blocks_and_equals_librosa(monkeypatch):
    signal = make_noise(8 * SR)
    whole = time_mean(mfcc(signal, sr=SR, n_mfcc=40))
    monkeypatch.setattr("emobench.features.mfcc._FRAMES_AT_ONCE", 50)
    np.testing.assert_allclose(time_mean(mfcc(signal, sr=SR, n_mfcc=40)), whole, rtol=0, atol=1e-4)
    assert_equals_oracle(whole, signal)


def assert_file_equals_librosa(path):
    recording = read_audio(path)
    signal, _ = librosa.load(path)
    assert_equals_oracle(vectorise(MFCC40, recording.signal, recording.sr, path=path), signal)
    assert_statistics_equal_oracle(vectorise(STATS, recording.signal, recording.sr, path=path), signal)


@pytest.mark.parametrize("sr", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("n_channels", [1, 2, 6])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_features_of_a_file_equal_librosa(sr, n_channels, subtype, tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, make_noise(sr // 2 * n_channels).reshape(-1, n_channels), sr, subtype=subtype)
    assert_file_equals_librosa(path)


@pytest.mark.skipif(not RAVDESS.is_dir(), reason="RAVDESS is not beside the repository")
def test_features_of_real_speech_equal_librosa():
    paths = sorted([*RAVDESS.rglob("*.wav"), *RAVDESS.rglob("*.flac")])
    assert len(paths) >= 20
    for path in paths[:: len(paths) // 20][:20]:
        assert_file_equals_librosa(path)


def test_extraction_does_not_wait_for_librosa_to_be_imported():
    """librosa defines the numbers, and takes seconds to import."""
    code = (
        "import sys, numpy; from emobench.features import FEATURES; "
        "[FEATURES[name](numpy.ones(9999, 'f4')) for name in ('mfcc40', 'mfcc40_stats')]; "
        "print({'librosa', 'numba', 'sklearn', 'scipy.signal'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


# --- frames over time -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:n_fft=512 is too large:UserWarning")
@pytest.mark.parametrize("duration_s, n_windows", [(1.2, 1), (4.1, 2), (6.5, 3)])
def test_frames_of_a_wav_equal_librosa(tmp_path, duration_s, n_windows):
    path = tmp_path / "clip.wav"
    soundfile.write(path, make_noise(round(duration_s * SR)), SR, subtype="FLOAT")
    signal, sr = librosa.load(path, sr=16_000)
    power = np.abs(librosa.stft(signal, n_fft=512, win_length=400, hop_length=160)) ** 2
    energy = power.sum(axis=0)
    active = np.flatnonzero(energy >= 1e-4 * energy.max())
    mel = librosa.feature.melspectrogram(S=power, sr=sr, n_mels=64) / energy[active].mean()
    decibel = librosa.power_to_db(mel, amin=1e-8, top_db=None)[:, active[0] : active[-1] + 1]
    starts = np.linspace(0, max(0, decibel.shape[1] - 300), n_windows).round().astype(int)
    recording = read_audio(path)
    for name, n_channels in (("logmel64", 64), ("mfcc40_frames", 40)):
        rows = vectorise(FEATURES[name], recording.signal, recording.sr, path=path)
        assert rows.shape == (n_windows, 300 * n_channels)
        for row, start in zip(rows, starts, strict=True):
            window = decibel[:, start : start + 300]
            window = np.pad(window, ((0, 0), (0, 300 - window.shape[1])), constant_values=-80)
            expected = window if name == "logmel64" else librosa.feature.mfcc(S=window, n_mfcc=40)
            np.testing.assert_allclose(row.reshape(300, n_channels).T, expected, atol=0.05)


def test_feature_sets_of_frames_share_their_spectrum():
    assert FEATURES["logmel64"].frames_key == FEATURES["mfcc40_frames"].frames_key


def test_shape_is_part_of_the_identity_of_frames_only():
    frames = FEATURES["logmel64"]
    assert feature_key(frames) != feature_key(replace(frames, shape=(64, 300)))
    assert frames.specification()["shape"] == [300, 64]
    assert "shape" not in MFCC40.specification()


@pytest.mark.parametrize("shape", [(300, 63), (19_200,), (3, 100, 64)], ids=str)
def test_shape_that_is_not_of_the_numbers_is_a_problem_of_the_row(shape):
    row = replace(FEATURES["logmel64"], shape=shape)
    assert f"has shape {shape}; n_features=19200" in row.problem()


# --- the contract of every row --------------------------------------------------------------------------------------


@pytest.fixture(params=[name for name, row in FEATURES.items() if not row.is_read])
def spec(request):
    return FEATURES[request.param]


@pytest.mark.parametrize("name", SIGNALS)
def test_features_are_finite_numbers_of_the_promised_shape(spec, name):
    signal = resample(SIGNALS[name], SR, spec.sr)
    vector = spec(signal)
    assert vector.shape == ((spec.n_features,) if spec.form == "vector" else (1, *spec.shape))
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()


def test_features_take_the_shortest_signal_they_promise_to(spec):
    assert np.isfinite(spec(make_noise(spec.min_samples))).all()


def test_features_are_deterministic_and_leave_the_signal_alone(spec):
    signal = make_noise()
    signal.flags.writeable = False
    first = spec(signal)
    np.testing.assert_array_equal(first, spec(signal))
    np.testing.assert_array_equal(signal, make_noise())


def test_features_do_not_depend_on_memory_layout_or_float_type(spec):
    signal = make_noise()
    strided = np.zeros((SR, 2), dtype=np.float32)
    strided[:, 0] = signal
    assert not strided[:, 0].flags.c_contiguous
    expected = spec(signal)
    for other in (strided[:, 0], signal[::-1].copy()[::-1], signal.astype(np.float64), signal.astype(">f4")):
        vector = spec(other)
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, expected)


def test_features_differ_between_signals(spec):
    assert not np.array_equal(spec(make_noise(seed=1)), spec(make_noise(seed=2)))


def test_row_is_named_as_its_key_and_its_target_exists(spec):
    assert get_features(spec.name) is spec
    assert callable(resolve(spec.frames))
    assert callable(resolve(spec.summary))
    assert spec.title


def test_every_number_of_a_vector_has_a_name_of_its_own(spec):
    assert len(set(spec.names)) == len(spec.names) == (spec.n_features if spec.form == "vector" else 0)


def test_unknown_features_are_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Unknown feature set 'mfc40'. Did you mean 'mfcc40'"):
        get_features("mfc40")


# --- the key --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"params": {"n_mfcc": 13}},
        {"params": {"n_mfcc": 40, "lifter": 0}},
        {"version": 2},
        {"sr": 16_000},
        {"n_features": 41},
        {"name": "other"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_feature_key_changes_with_the_specification(changes):
    assert feature_key(dataclasses.replace(MFCC40, **changes)) != feature_key(MFCC40)


def test_feature_key_changes_with_the_mono_policy():
    assert len({feature_key(MFCC40, mono=mono) for mono in ("mean", "first", "error")}) == 3
    assert feature_key(MFCC40) == feature_key(MFCC40, mono="mean")


@pytest.mark.parametrize("library", ["librosa", "numpy", "scipy", "soundfile", "soxr", "libsndfile"])
def test_feature_key_changes_with_the_version_of_a_library(library, monkeypatch):
    before, versions = feature_key(MFCC40), library_versions()
    monkeypatch.setattr(module, "library_versions", lambda: versions | {library: "999"})
    assert versions[library]
    assert feature_key(MFCC40) != before


def test_feature_key_changes_with_the_version_of_python(monkeypatch):
    before = feature_key(MFCC40)
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    assert feature_key(MFCC40) != before


def test_feature_key_does_not_change_with_title_or_order_of_parameters():
    row = dataclasses.replace(MFCC40, params={"a": 1, "b": 2}, title="x")
    assert feature_key(row) == feature_key(dataclasses.replace(row, params={"b": 2, "a": 1}, title="y"))


def test_feature_key_is_the_same_in_every_process():
    code = "from emobench.features import FEATURES, feature_key; print(feature_key(FEATURES['mfcc40']))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert keys == {feature_key(MFCC40)}


def test_digest_refuses_what_json_has_not():
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"x": float("nan")})


def test_decoded_bytes_and_file_give_the_same_features(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, make_noise(), SR, format="FLAC")
    (tmp_path / "x.flac").write_bytes(buffer.getvalue())
    recordings = (decode(buffer.getvalue()), read_audio(tmp_path / "x.flac"))
    one, other = (vectorise(MFCC40, recording.signal, recording.sr, path="x") for recording in recordings)
    np.testing.assert_array_equal(one, other)
