"""librosa and SciPy are the oracles of `voice` where they have a number; synthetic voices of known make where not."""

import csv
import itertools
import tracemalloc
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.signal
import scipy.stats
from voices import SR, say, sing

from emobench.audio.decoding import read_audio, resample
from emobench.features import FEATURES
from emobench.features.voice import BLOCKS, NAMES, ROWS, functionals, rhythm, spectrum
from emobench.features.voice.cycles import measure_cycles
from emobench.features.voice.pitch import best_path, track_pitch
from emobench.features.voice.speech import HOP, active_speech, activity, high_pass

VOICE = FEATURES["voice"]
GOLDEN = Path(__file__).parent / "golden" / "voice.csv"
RAVDESS = Path(__file__).parents[2] / "shared" / "data" / "ravdess"

needs_ravdess = pytest.mark.skipif(not RAVDESS.is_dir(), reason="RAVDESS is not beside the repository")


def make_noise(n_samples=SR, *, seed=0):
    return np.random.default_rng(seed).normal(scale=0.1, size=n_samples).astype(np.float32)


def tone(hz, n_samples=SR):
    return np.sin(2 * np.pi * hz * np.arange(n_samples) / SR).astype(np.float32)


def numbers(signal):
    """Return the vector of a signal by name."""
    return dict(zip(NAMES, VOICE(signal).tolist(), strict=True))


def real_clips(step):
    """Yield every `step`-th recording of RAVDESS at 16 kHz."""
    for path in sorted([*RAVDESS.rglob("*.wav"), *RAVDESS.rglob("*.flac")])[::step]:
        recording = read_audio(path)
        yield resample(recording.signal, recording.sr, SR)


# --- speech: filter, trimming, level --------------------------------------------------------------------------------


@pytest.mark.parametrize("hz, least_db, most_db", [(50, -110, -75), (80, -0.1, 0.1), (500, -0.01, 0.01)])
def test_high_pass_stops_hum_and_lets_voices_pass(hz, least_db, most_db):
    signal, inside = tone(hz, 4 * SR), slice(SR, -SR)
    gain_db = 20 * np.log10(high_pass(signal)[inside].std() / signal[inside].std())
    assert least_db <= gain_db <= most_db


def test_high_pass_leaves_nothing_of_an_offset():
    np.testing.assert_allclose(high_pass(np.full(SR, 0.01, dtype=np.float32)), 0, atol=1e-9)


@pytest.mark.parametrize("n_samples", [SR, 20 * SR])
def test_high_pass_in_blocks_equals_scipys_convolution(n_samples):
    signal = make_noise(n_samples)
    taps = high_pass(np.eye(1, 8001, 4000)[0])
    expected = scipy.signal.fftconvolve(signal - signal.mean(dtype=np.float64), taps, mode="same")
    inside = slice(4000, -4000)
    np.testing.assert_allclose(high_pass(signal)[inside], expected[inside], atol=1e-4)


def test_hum_does_not_click_at_the_ends():
    assert np.abs(high_pass(tone(50, 2 * SR) * 0.01)).max() < 0.005


def test_active_speech_is_trimmed_and_of_unit_power():
    noise = make_noise()
    signal = np.concatenate([np.zeros(SR), noise, 0.005 * noise, 0.2 * noise, 0.005 * noise]).astype(np.float32)
    speech = active_speech(signal)
    assert len(speech) / SR == pytest.approx(3, abs=0.03)
    loud = speech[: SR // HOP * HOP].std() ** 2
    assert (loud + loud / 25) / 2 == pytest.approx(1, rel=0.05)  # the soft second is a pause
    assert activity(high_pass(signal))[1].mean() == pytest.approx(2 / 5, abs=0.02)


# --- spectrum -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech():
    return active_speech(say())


@pytest.fixture(scope="module")
def described(speech):
    return dict(zip(spectrum.SHAPE, spectrum.describe_spectrum(speech), strict=False))


@pytest.fixture(scope="module")
def power(speech):
    """librosa's power spectrum of the same frames, with the floor, (n_bins, n_frames)."""
    window = scipy.signal.windows.hann(spectrum.WINDOW + 2)[1:-1]
    padded = np.pad(speech, (spectrum.N_FFT - HOP) // 2)
    stft = librosa.stft(
        padded, n_fft=spectrum.N_FFT, hop_length=HOP, win_length=spectrum.WINDOW, window=window, center=False
    )
    return np.abs(stft) ** 2 * 2 / (spectrum.N_FFT * (window**2).sum()) + spectrum.FLOOR / len(stft)


HZ = np.fft.rfftfreq(spectrum.N_FFT, 1 / SR)


def semitones(hz):
    return 12 * np.log2(np.maximum(hz, 50) / 1000)


def test_mel_bands_and_mfcc_equal_librosa(speech, power):
    filters = librosa.filters.mel(sr=SR, n_fft=spectrum.N_FFT, n_mels=spectrum.N_MELS, fmin=spectrum.LOWEST_HZ)
    expected = np.log(filters / filters.max(axis=1, keepdims=True) @ power)
    frames = VOICE.extract_frames(say())
    np.testing.assert_allclose(frames[ROWS.index("mel01") :], expected, atol=1e-3)
    np.testing.assert_allclose(
        functionals.Track(frames).mfcc, librosa.feature.mfcc(S=expected, n_mfcc=functionals.N_MFCC), atol=1e-2
    )


def test_centroid_bandwidth_and_flatness_equal_librosa(described, power):
    [centroid] = librosa.feature.spectral_centroid(S=power, sr=SR)
    [bandwidth] = librosa.feature.spectral_bandwidth(S=power, sr=SR)
    [flatness] = librosa.feature.spectral_flatness(S=power[HZ >= 80], power=1, amin=1e-30)
    np.testing.assert_allclose(described["centroid"], semitones(centroid), atol=1e-2)
    np.testing.assert_allclose(described["bandwidth"], semitones(bandwidth), atol=1e-2)
    np.testing.assert_allclose(described["flatness"], 10 * np.log10(flatness), atol=1e-2)


@pytest.mark.parametrize("percent", [25, 50, 85, 95])
def test_rolloff_is_within_a_bin_of_librosas(described, power, percent):
    [expected] = librosa.feature.spectral_rolloff(S=power, sr=SR, roll_percent=percent / 100)
    hz = 1000 * 2 ** (described[f"rolloff{percent}"] / 12)
    assert np.all(np.abs(hz - expected) <= SR / spectrum.N_FFT)


def test_level_ratios_and_slopes_equal_what_their_definition_gives(described, power):
    decibel = 10 * np.log10(power)

    def level(low_hz, high_hz):
        return 10 * np.log10(power[(low_hz <= HZ) & (high_hz > HZ)].sum(axis=0))

    def peak(low_hz, high_hz):
        return decibel[(low_hz <= HZ) & (high_hz > HZ)].max(axis=0)

    def slope(low_hz, high_hz):
        chosen = (low_hz <= HZ) & (high_hz > HZ)
        return np.polyfit(HZ[chosen] / 1000, decibel[chosen], 1)[0]

    np.testing.assert_allclose(described["level"], level(0, 9000), atol=1e-3)
    np.testing.assert_allclose(described["alpha_ratio"], level(50, 1000) - level(1000, 5000), atol=1e-3)
    np.testing.assert_allclose(described["hammarberg"], peak(0, 2000) - peak(2000, 5000), atol=1e-2)
    np.testing.assert_allclose(described["slope_80_500"], slope(80, 500), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(described["slope_500_1500"], slope(500, 1500), rtol=1e-3, atol=1e-2)


def test_flux_is_the_distance_of_neighbouring_spectra(described, power):
    shares = np.sqrt(power / power.sum(axis=0))
    expected = np.sqrt(2 - 2 * np.minimum((shares[:, 1:] * shares[:, :-1]).sum(axis=0), 1))
    np.testing.assert_allclose(described["flux"][1:], expected, atol=2e-3)
    assert described["flux"][0] == 0


def test_spectrum_of_long_speech_does_not_depend_on_blocks(speech, monkeypatch):
    whole = spectrum.describe_spectrum(speech)
    monkeypatch.setattr(spectrum, "_FRAMES_AT_ONCE", 50)
    np.testing.assert_allclose(spectrum.describe_spectrum(speech), whole, atol=1e-3)


# --- pitch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vowel", ["a", "i", "u"])
@pytest.mark.parametrize("base_hz", [75, 120, 200, 330, 500])
@pytest.mark.parametrize("snr_db, sr", [(None, SR), (10, SR), (None, 8000), (10, 8000)])
def test_pitch_of_synthetic_voices_has_few_gross_errors(base_hz, vowel, snr_db, sr):
    f0_hz = base_hz * 2 ** (0.2 * np.sin(2 * np.pi * 1.5 * np.arange(2 * SR) / SR))
    signal, _, _ = sing(f0_hz, vowel=vowel, snr_db=snr_db)
    tracked = track_pitch(active_speech(resample(resample(signal, SR, sr), sr, SR))).f0_hz
    expected = f0_hz[HOP // 2 :: HOP][: len(tracked)]
    is_voiced = tracked > 0
    error = np.abs(tracked / expected - 1)[is_voiced]
    assert is_voiced.mean() > 0.95
    assert (error > 0.2).mean() <= 0.03
    assert np.median(error) < 0.01


@pytest.mark.slow
@needs_ravdess
def test_pitch_of_real_speech_agrees_with_pyin():
    errors, agreements = [], []
    for signal in real_clips(48):
        speech = active_speech(signal)
        tracked = track_pitch(speech).f0_hz
        padded = np.pad(speech, (1024 // 2 - HOP // 2, 1024))  # so that a frame is around each cell
        expected, is_voiced, _ = librosa.pyin(
            padded, fmin=65, fmax=600, sr=SR, frame_length=1024, hop_length=HOP, center=False
        )
        expected, is_voiced = expected[: len(tracked)], is_voiced[: len(tracked)]
        both = is_voiced & (tracked > 0)
        errors.append(np.abs(tracked[both] / expected[both] - 1))
        agreements.append(is_voiced == (tracked > 0))
    errors = np.concatenate(errors)
    print(f"gross errors {(errors > 0.2).mean():.3%}, median {np.median(errors):.3%}, ", end="")
    print(f"voicing agrees in {np.concatenate(agreements).mean():.1%}")
    assert (errors > 0.2).mean() <= 0.03
    assert np.median(errors) < 0.01
    assert np.concatenate(agreements).mean() > 0.8


def test_best_path_is_the_best_of_all_paths():
    rng = np.random.default_rng(0)
    lags, heights, is_silent = rng.uniform(30, 200, (6, 2)), rng.uniform(0, 1, (6, 2)), rng.random(6) < 0.3

    def score(path):
        total = 0.0
        for frame, state in enumerate(path):
            if state == 2:
                total += 0.45 + 0.5 * is_silent[frame]
            else:
                total += heights[frame, state] - 0.01 * np.log2(lags[frame, state])
                total += 0.01 * np.log2(SR / 600)
            if frame and (state == 2) != (path[frame - 1] == 2):
                total -= 0.14
            elif frame and state != 2:
                total -= 0.35 * abs(np.log2(lags[frame, state] / lags[frame - 1, path[frame - 1]]))
        return total

    expected = max(itertools.product(range(3), repeat=6), key=score)
    np.testing.assert_array_equal(best_path(lags, heights, is_silent), expected)


def test_harmonicity_is_the_ratio_of_voice_to_noise():
    voice, _, _ = sing(np.full(2 * SR, 150.0))
    low = scipy.signal.firwin(255, 3900, fs=SR)  # what the tracker hears
    noise = scipy.signal.lfilter(low, [1], make_noise(2 * SR))
    for snr_db in (0, 5, 10, 15):
        scale = np.std(scipy.signal.lfilter(low, [1], voice)) / np.std(noise) * 10 ** (-snr_db / 20)
        signal = (voice + scale * noise).astype(np.float32)
        assert np.median(track_pitch(active_speech(signal)).harmonicity_db) == pytest.approx(snr_db, abs=1.5)


# --- cycles ---------------------------------------------------------------------------------------------------------


def cycles_of(signal):
    speech = active_speech(signal)
    return measure_cycles(speech, track_pitch(speech).f0_hz)


@pytest.mark.parametrize("base_hz", [100, 150, 220])
@pytest.mark.parametrize("jitter", [0.005, 0.01, 0.02])
def test_jitter_is_that_of_the_pulses(base_hz, jitter):
    signal, times, _ = sing(np.full(4 * SR, float(base_hz)), jitter=jitter)
    periods = np.diff(times)
    expected = np.abs(np.diff(periods)).mean() / periods.mean()
    assert cycles_of(signal).jitter.mean() == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("base_hz", [100, 150, 220])
@pytest.mark.parametrize("shimmer", [0.05, 0.1, 0.15])
def test_shimmer_is_that_of_the_pulses(base_hz, shimmer):
    signal, _, amplitudes = sing(np.full(4 * SR, float(base_hz)), shimmer=shimmer)
    expected = np.abs(np.diff(amplitudes)).mean() / amplitudes.mean()
    assert cycles_of(signal).shimmer.mean() == pytest.approx(expected, rel=0.2)


def test_steady_voice_has_hardly_any_jitter_or_shimmer():
    found = cycles_of(sing(np.full(2 * SR, 200.0))[0])
    assert np.median(found.jitter) < 0.001
    assert np.median(found.shimmer) < 0.002


def test_first_harmonics_have_the_levels_they_were_made_with():
    signal = tone(200) + 0.5 * tone(400) + 0.25 * tone(600)
    found = cycles_of(signal)
    assert np.median(found.h1_h2_db) == pytest.approx(20 * np.log10(2), abs=0.2)
    assert np.median(found.h1_h3_db) == pytest.approx(20 * np.log10(4), abs=0.4)


# --- statistics over time -------------------------------------------------------------------------------------------


def test_statistics_equal_numpys_and_scipys():
    rows = np.random.default_rng(0).normal(size=(5, 77)).cumsum(axis=1)
    mean, sd, p05, p50, p95, iqr = functionals.spread(rows).reshape(6, 5)
    np.testing.assert_allclose(mean, rows.mean(axis=1))
    np.testing.assert_allclose(sd, rows.std(axis=1))
    np.testing.assert_allclose([p05, p50, p95], np.percentile(rows, [5, 50, 95], axis=1))
    np.testing.assert_allclose(iqr, scipy.stats.iqr(rows, axis=1))
    np.testing.assert_allclose(functionals.trend(rows), np.polyfit(np.linspace(0, 1, 77), rows.T, 1)[0])
    np.testing.assert_allclose(functionals.correlations(rows), np.corrcoef(rows)[np.triu_indices(5, 1)])


def test_thirds_of_a_step_fall_once():
    np.testing.assert_allclose(functionals.thirds(np.repeat([[4.0, 1.0, 1.0]], 5, axis=1).reshape(1, 15)), [3, 0])


def test_row_that_does_not_vary_correlates_with_nothing():
    np.testing.assert_array_equal(functionals.correlations(np.array([[1.0, 1, 1], [1, 2, 3]])), [0])


# --- rhythm ---------------------------------------------------------------------------------------------------------


def test_runs_and_slopes_equal_polyfits():
    rng = np.random.default_rng(0)
    chosen = np.repeat([0, 1, 0, 1, 1, 0, 1], [3, 9, 2, 3, 4, 8, 12]).astype(bool)
    values = rng.normal(size=len(chosen)).cumsum()
    starts, ends = rhythm.runs(chosen)
    np.testing.assert_array_equal(starts, [3, 14, 29])
    np.testing.assert_array_equal(ends, [12, 21, 41])
    expected = [np.polyfit(range(b - a), values[a:b], 1)[0] for a, b in zip(starts, ends, strict=True)]
    np.testing.assert_allclose(rhythm.run_slopes(values, chosen), expected)


@pytest.mark.parametrize("n_frames", [1, 4, 31, 200])
def test_smoothed_equals_scipys_uniform_filter(n_frames):
    values = np.random.default_rng(0).normal(size=n_frames)
    expected = scipy.ndimage.uniform_filter1d(values, 31, mode="nearest")
    np.testing.assert_allclose(rhythm.smoothed(values, 31), expected, atol=1e-12)


def test_modulation_spectrum_equals_scipys_periodogram():
    rows = np.random.default_rng(0).normal(size=(3, 400)).cumsum(axis=1)
    window = scipy.signal.windows.hann(402)[1:-1]
    centred = rows - rows.mean(axis=1, keepdims=True)
    hz, density = scipy.signal.periodogram(centred, 100, window, nfft=512, detrend=False)
    power = density * 100 * (window**2).sum() / 400 / 2  # one-sided density to power a bin
    bands = [power[:, (low <= hz) & (hz < high)].mean(axis=1) for low, high in rhythm.MODULATION_HZ]
    found = rhythm.modulation_spectrum(rows).reshape(len(bands), 3)
    np.testing.assert_allclose(found, np.log(np.array(bands) + 1e-4))


@pytest.mark.parametrize("rate_hz", [3, 5, 8])
def test_peaks_and_modulation_tell_the_rate_of_syllables(rate_hz):
    times_s = np.arange(4 * SR) / SR
    found = numbers((make_noise(4 * SR) * (1.05 + np.sin(2 * np.pi * rate_hz * times_s))).astype(np.float32))
    assert found["peaks.per_s"] == pytest.approx(rate_hz, abs=0.5)
    loudest = max(rhythm.MODULATION_HZ, key=lambda band: found[f"level.{band[0]:g}-{band[1]:g}Hz"])
    assert loudest[0] <= rate_hz < loudest[1]


def test_voiced_runs_and_pauses_are_counted():
    voice, _, _ = sing(np.full(SR // 2, 150.0))
    pause = np.zeros(SR // 4, dtype=np.float32)
    found = numbers(np.concatenate([voice, pause, voice, pause, pause, voice]) + 1e-5 * make_noise(9 * SR // 4))
    assert found["voiced.per_s"] == pytest.approx(3 / 2.25, rel=0.1)
    assert found["voiced.mean_s"] == pytest.approx(0.5, abs=0.06)
    assert found["pause.mean_s"] == pytest.approx(0.375, abs=0.06)
    assert found["pause.max_s"] == pytest.approx(0.5, abs=0.06)


# --- the vector -----------------------------------------------------------------------------------------------------


def test_each_block_has_as_many_numbers_as_names():
    track = functionals.Track(VOICE.extract_frames(say()))
    for block in BLOCKS.values():
        assert block.compute(track).shape == (len(block.names),)


def test_names_say_what_the_numbers_are():
    """One number of each block, by hand from the frames."""
    frames = dict(zip(ROWS, VOICE.extract_frames(say()).astype(float), strict=True))
    found = numbers(say())
    is_voiced, is_active = frames["pitch"] > 0, frames["level"] > -40
    expected = {
        "pitch.p90": np.percentile(frames["pitch"][is_voiced], 90),
        "centroid.voiced.p95": np.percentile(frames["centroid"][is_voiced], 95),
        "flatness.active.iqr": scipy.stats.iqr(frames["flatness"][is_active]),
        "hammarberg.unvoiced.sd": frames["hammarberg"][is_active & ~is_voiced].std(),
        "mel07.p50": np.median(frames["mel07"][is_active]),
        "h1_h3.p05": np.percentile(frames["h1_h3"][is_voiced], 5),
        "jitter.p50": np.median(np.log(np.maximum(frames["jitter"][is_voiced], 0.003))),
        "pitch~flux": np.corrcoef(frames["pitch"][is_voiced], frames["flux"][is_voiced])[0, 1],
        "flux~alpha_ratio": np.corrcoef(frames["flux"][is_voiced], frames["alpha_ratio"][is_voiced])[0, 1],
        "voiced.share": is_voiced.mean(),
        "level.trend": np.polyfit(np.linspace(0, 1, len(is_voiced)), frames["level"], 1)[0],
    }
    mel = np.array([frames[f"mel{band:02d}"] for band in range(1, 27)])
    mfcc = scipy.fft.dct(mel, axis=0, norm="ortho")
    deltas = librosa.feature.delta(mfcc)
    expected["mfcc03.unvoiced.mean"] = mfcc[3, is_active & ~is_voiced].mean()
    expected["mfcc12.voiced.sd"] = mfcc[12, is_voiced].std()
    expected["mfcc05.voiced.delta.sd"] = deltas[5, is_voiced].std()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_golden_numbers():
    with open(GOLDEN, newline="", encoding="utf-8") as file:
        golden = {line["name"]: float(line["value"]) for line in csv.DictReader(file)}
    found = numbers(say())
    assert list(golden) == list(found)
    np.testing.assert_allclose(list(found.values()), list(golden.values()), rtol=1e-3, atol=1e-3)


# --- robustness -----------------------------------------------------------------------------------------------------


HUM_DB = -40


def active_amplitude(signal):
    power, is_active = activity(high_pass(signal))
    return np.sqrt(power[is_active].mean())


CHANGES = {
    "a tenth of the gain": (1e-3, lambda signal: signal * np.float32(0.1)),
    "ten times the gain": (1e-3, lambda signal: signal * np.float32(10)),
    "offset": (0.05, lambda signal: signal + np.float32(0.01)),
    "hum": (
        0.05,
        lambda signal: (
            signal + active_amplitude(signal) * np.float32(2**0.5 * 10 ** (HUM_DB / 20)) * tone(50, len(signal) + 9)[9:]
        ),
    ),
}


@pytest.fixture(scope="module")
def utterances():
    return [say(seed=seed, base_hz=base_hz) for seed, base_hz in enumerate(np.geomspace(90, 300, 12))]


@pytest.mark.parametrize("change", CHANGES)
def test_gain_offset_and_hum_hardly_move_any_number(utterances, change):
    bar, changed = CHANGES[change]
    before = np.array([VOICE(signal) for signal in utterances])
    after = np.array([VOICE(changed(signal)) for signal in utterances])
    spread = before.std(axis=0)
    moved = np.abs(after - before) / np.maximum(spread, 1e-3)
    assert spread.min() >= 0
    assert moved.max() <= bar, NAMES[moved.max(axis=0).argmax()]


@pytest.mark.slow
@needs_ravdess
def test_gain_offset_and_hum_hardly_move_any_number_of_real_speech():
    clips = list(real_clips(12))
    before = np.array([VOICE(signal) for signal in clips])
    for change, (bar, changed) in CHANGES.items():
        moved = np.abs(np.array([VOICE(changed(signal)) for signal in clips]) - before) / before.std(axis=0)
        print(f"{change}: at most {moved.max():.5f} standard deviations, {NAMES[moved.max(axis=0).argmax()]}")
        assert moved.max() <= bar, change


UNVOICED = {
    "silence": np.zeros(SR, dtype=np.float32),
    "noise": make_noise(),
    "whisper": scipy.signal.lfilter([1], [1, -1.6, 0.9], make_noise(2 * SR)).astype(np.float32),
    "one sample": np.ones(1, dtype=np.float32),
    "a tenth of a second of noise": make_noise(SR // 10),
    "click": np.eye(1, SR, 9000, dtype=np.float32)[0],
}


@pytest.mark.parametrize("name", UNVOICED)
def test_what_has_no_voice_has_the_documented_values(name):
    found = numbers(UNVOICED[name])
    assert np.isfinite(list(found.values())).all()
    assert found["pitch.mean"] == 31
    assert found["pitch.sd"] == found["pitch.slope.max"] == found["pitch~level"] == 0
    assert found["jitter.mean"] == pytest.approx(np.log(0.02))
    assert found["shimmer.p95"] == pytest.approx(np.log(0.1))
    assert found["h1_h2.mean"] == found["h1_h3.mean"] == 0
    assert found["voiced.share"] < 0.05
    if found["voiced.share"] == 0:
        assert found["voiced.per_s"] == found["voiced.max_s"] == found["pause.mean_s"] == 0
        assert found["centroid.voiced.mean"] == found["centroid.active.mean"] == found["centroid.unvoiced.mean"]


def test_silence_is_white_noise_at_the_floor():
    found = numbers(np.zeros(SR, dtype=np.float32))
    assert found["level.active.mean"] == pytest.approx(10 * np.log10(spectrum.FLOOR), abs=0.01)
    assert found["centroid.active.mean"] == pytest.approx(semitones(4000), abs=0.1)
    assert found["flatness.active.mean"] == pytest.approx(0, abs=0.01)


def test_pure_tone_is_a_voice_without_perturbation():
    found = numbers(tone(220, 2 * SR))
    assert found["pitch.p50"] == pytest.approx(36, abs=0.05)
    assert found["voiced.share"] > 0.95
    assert found["jitter.p50"] == pytest.approx(np.log(0.003))
    assert found["centroid.voiced.p50"] == pytest.approx(semitones(220), abs=0.2)


def test_telephone_band_keeps_pitch_and_low_bands():
    signal = say()
    found, expected = numbers(resample(resample(signal, SR, 8000), 8000, SR)), numbers(signal)
    assert np.isfinite(list(found.values())).all()
    assert found["pitch.p50"] == pytest.approx(expected["pitch.p50"], abs=0.2)
    assert found["mel10.p50"] == pytest.approx(expected["mel10.p50"], abs=0.1)
    assert found["mel26.p50"] < expected["mel26.p50"] - 1


@pytest.mark.parametrize("n_samples", [1, 2, 159, 160, 161, 1500, 2500, 6000])
def test_voice_of_any_length_is_finite(n_samples):
    for signal in (make_noise(n_samples), sing(np.full(6000, 200.0))[0][:n_samples]):
        assert np.isfinite(VOICE(signal)).all()


@pytest.mark.slow
def test_memory_of_an_hour_is_a_few_times_that_of_the_signal():
    """NumPy tells tracemalloc of its arrays; the traces of all else would take minutes, so ten minutes stand for it."""
    signal = np.tile(say(), 600 * SR // len(say()))
    tracemalloc.start()
    try:
        assert np.isfinite(VOICE(signal)).all()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{peak / 2**20:.0f} MB for {signal.nbytes / 2**20:.0f} MB of samples")
    assert peak < 6 * signal.nbytes
