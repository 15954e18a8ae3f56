"""Every change of a recording against an oracle: a formula, another implementation, or a measurement."""

import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from scipy.signal import welch

from emobench.audio import transforms
from emobench.features.voice.pitch import track_pitch
from emobench.features.voice.speech import SR as PITCH_SR
from emobench.features.voice.speech import active_speech
from emobench.stresses import Change

SR = 16_000
NOISES = ("white_noise", "pink_noise", "babble")


def noise(n=2 * SR, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def tone(hz, sr=SR, duration_s=1.0):
    return (0.1 * np.sin(2 * np.pi * hz * np.arange(round(duration_s * sr)) / sr)).astype(np.float32)


def voice(f0_hz, sr=SR, duration_s=1.5):
    time_s = np.arange(round(duration_s * sr)) / sr
    tones = sum(np.sin(2 * np.pi * number * f0_hz * time_s) / number for number in range(1, 20))
    return (0.05 * tones).astype(np.float32)


def power_db(signal):
    return 10 * np.log10(np.mean(np.square(signal, dtype=float)))


def rng(seed=0):
    return np.random.default_rng(seed)


def add(kind, signal, snr_db, sr=SR):
    more = {"voices": [noise(3000, 5), voice(140), noise(50_000, 6)]} if kind == "babble" else {}
    return getattr(transforms, kind)(signal, sr, snr_db, rng=rng(), **more)


# --- nothing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, level",
    [
        *(("gain", 0), ("clip", 0), ("offset", 0), ("pad", 0), ("crop", 0), ("high_pass", 0), ("low_pass", SR / 2)),
        *(("tilt", 0), ("speed", 1), ("pitch", 0)),
    ],
)
def test_a_change_of_no_strength_is_the_identity(kind, level):
    signal = noise()
    np.testing.assert_array_equal(getattr(transforms, kind)(signal, SR, level), signal)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_infinitely_below_a_signal_is_the_identity(kind):
    np.testing.assert_array_equal(add(kind, noise(), np.inf), noise())


def test_a_room_without_reverberation_is_the_identity():
    np.testing.assert_array_equal(transforms.room(noise(), SR, 0, rng=rng()), noise())


# --- level and duration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level_db", [-20, -6, 6, 20])
def test_gain_changes_the_level_by_so_many_decibels(level_db):
    assert power_db(transforms.gain(noise(), SR, level_db)) - power_db(noise()) == pytest.approx(level_db, abs=1e-4)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05])
def test_clip_leaves_this_share_of_samples_at_the_limit(share):
    signal = noise()
    clipped = transforms.clip(signal, SR, share)
    is_cut = clipped != signal
    assert is_cut.mean() == pytest.approx(share, abs=1 / len(signal))
    assert np.ptp(np.abs(clipped[is_cut])) == 0
    assert np.abs(clipped).max() == np.abs(clipped[is_cut][0])


def test_offset_moves_the_mean():
    assert transforms.offset(noise(), SR, 0.01).mean() - noise().mean() == pytest.approx(0.01, abs=1e-6)


def test_pad_and_crop_undo_each_other():
    padded = transforms.pad(noise(), SR, 0.1)
    assert len(padded) == len(noise()) + 2 * 1600
    assert not padded[:1600].any()
    assert not padded[-1600:].any()
    np.testing.assert_array_equal(transforms.crop(padded, SR, 0.1), noise())


def test_crop_leaves_half_of_a_short_signal():
    assert len(transforms.crop(noise(1000), SR, 1.0)) == 500


# --- spectrum ---------------------------------------------------------------------------------------------------------


def response_db(kind, level, sr=SR):
    """Return frequencies and what a change does to each of them, from its answer to a click."""
    click = np.eye(1, 2 * sr, sr // 2, dtype=np.float32)[0]
    with np.errstate(divide="ignore"):
        return np.fft.rfftfreq(2 * sr, 1 / sr), 20 * np.log10(
            np.abs(np.fft.rfft(getattr(transforms, kind)(click, sr, level)))
        )


@pytest.mark.parametrize(
    "kind, cutoff_hz, octave", [("high_pass", 100, 0.5), ("high_pass", 300, 0.5), ("low_pass", 500, 2)]
)
def test_filters_lose_3_db_at_the_cutoff_and_24_an_octave_beyond(kind, cutoff_hz, octave):
    hz, gain_db = response_db(kind, cutoff_hz)
    at = dict(zip(hz, gain_db, strict=True))
    assert at[cutoff_hz] == pytest.approx(-3.01, abs=0.1)
    assert at[cutoff_hz * octave] == pytest.approx(-24.1, abs=0.6)
    assert at[cutoff_hz / octave**2] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("slope", [-3, 3])
def test_tilt_changes_the_spectrum_by_so_many_decibels_an_octave(slope):
    hz, gain_db = response_db("tilt", slope)
    at = dict(zip(hz, gain_db, strict=True))
    steps = np.diff([at[f] for f in (125, 250, 500, 1000, 2000, 4000)])
    np.testing.assert_allclose(steps, slope, atol=0.01)


def test_tilt_keeps_the_level():
    assert power_db(transforms.tilt(noise(), SR, 3)) == pytest.approx(power_db(noise()), abs=1e-3)


# --- transmission -----------------------------------------------------------------------------------------------------


def mu_law_levels():
    """Return the 255 values of G.711: segments of 16 equal steps, each segment twice as wide as the one below."""
    codes = np.arange(128)
    magnitudes = (((codes & 15) * 2 + 33) << (codes >> 4)) - 33
    return np.unique(np.concatenate([-magnitudes, magnitudes])) * 4 / 2**15


def test_phone_has_the_levels_of_g711_and_never_passes_over_one():
    signal = 5 * tone(1000, sr=8000)
    heard = transforms.phone(signal, 8000)
    levels = mu_law_levels()
    assert np.isin(heard.astype(float), levels).all()
    narrow = transforms._butterworth(signal, 8000, transforms.PHONE_BAND_HZ, "bandpass")
    low, high = np.minimum(narrow, heard), np.maximum(narrow, heard)
    between = np.searchsorted(levels, high, "left") - np.searchsorted(levels, low, "right")
    assert between.max() == 0
    assert np.abs(narrow - heard).max() > 0.01  # 8 bits are heard


def test_phone_is_what_soundfile_makes_of_the_narrow_band():
    file = io.BytesIO()
    narrow = transforms._butterworth(noise(), 8000, transforms.PHONE_BAND_HZ, "bandpass")
    soundfile.write(file, narrow, 8000, format="AU", subtype="ULAW")
    file.seek(0)
    np.testing.assert_array_equal(transforms.phone(noise(), 8000), soundfile.read(file, dtype="float32")[0])


@pytest.mark.parametrize("sr", [8000, 16_000, 22_050, 48_000])
def test_phone_passes_speech_alone(sr):
    gains = [power_db(transforms.phone(tone(hz, sr), sr)) - power_db(tone(hz, sr)) for hz in (50, 1000, 3900)]
    assert gains[0] < -20
    assert gains[1] == pytest.approx(0, abs=0.5)
    assert gains[2] < -10


@pytest.mark.parametrize("sr", [16_000, 22_050, 48_000])
@pytest.mark.parametrize("kbit_s", [16, 32, 64])
def test_mp3_is_aligned_with_the_recording(sr, kbit_s):
    signal = voice(150, sr) * np.linspace(0, 1, round(1.5 * sr), dtype=np.float32)
    decoded = transforms.mp3(signal, sr, kbit_s)
    assert len(decoded) == len(signal)
    shifts = range(-20, 21)
    likeness = [np.dot(decoded[1000:-1000], np.roll(signal, shift)[1000:-1000]) for shift in shifts]
    assert abs(shifts[int(np.argmax(likeness))]) <= 1


def test_mp3_loses_more_at_a_lower_bit_rate():
    losses = [power_db(transforms.mp3(noise(), SR, kbit_s) - noise()) for kbit_s in (16, 32, 128)]
    assert losses[0] > losses[1] > losses[2]


# --- noise and rooms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("snr_db", [20, 10, 0])
def test_noise_has_the_signal_to_noise_ratio(kind, snr_db):
    signal = voice(150)
    added = add(kind, signal, snr_db) - signal
    assert power_db(signal) - power_db(added) == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize("kind", NOISES)
def test_a_silent_signal_gets_no_noise(kind):
    assert not add(kind, np.zeros(SR, np.float32), 10).any()


@pytest.mark.parametrize("kind, slope_db", [("white_noise", 0), ("pink_noise", -3.01)])
def test_noise_has_the_slope_of_its_colour(kind, slope_db):
    signal = noise(60 * SR)
    hz, density = welch(add(kind, signal, 0) - signal, SR, nperseg=4096)
    octaves = [(lo, 2 * lo) for lo in (125, 250, 500, 1000, 2000)]
    levels = [10 * np.log10(density[(hz >= lo) & (hz < hi)].mean()) for lo, hi in octaves]
    np.testing.assert_allclose(np.diff(levels), slope_db, atol=0.3)


def test_babble_holds_every_voice_as_loud():
    voices = [tone(hz) * gain for hz, gain in ((500, 1), (1000, 0.01), (2000, 5))]
    signal = noise()
    added = transforms.babble(signal, SR, 0, rng=rng(), voices=voices) - signal
    hz, density = welch(added, SR, nperseg=1600)
    levels = [10 * np.log10(density[hz == f][0]) for f in (500, 1000, 2000)]
    assert np.ptp(levels) < 0.1


@pytest.mark.parametrize("sr", [16_000, 48_000])
@pytest.mark.parametrize("rt60_s", [0.3, 0.7])
def test_a_room_decays_by_60_db_in_its_reverberation_time(sr, rt60_s):
    click = np.eye(1, sr, 0, dtype=np.float32)[0]
    heard = transforms.room(click, sr, rt60_s, rng=rng())
    left_db = 10 * np.log10(np.cumsum(np.square(heard[::-1], dtype=float))[::-1] + 1e-30)  # Schroeder's integral
    left_db -= left_db[0]
    first, last = (np.argmax(left_db < level) for level in (-5, -35))  # T30 of ISO 3382
    assert 2 * (last - first) / sr == pytest.approx(rt60_s, rel=0.1)


def test_a_room_is_as_strong_as_the_voice_itself():
    response = transforms.room_response(SR, 0.7, rng=rng())
    assert np.square(response[1:]).sum() == pytest.approx(response[0] ** 2)


def test_a_room_keeps_length_and_level():
    heard = transforms.room(voice(150), SR, 0.7, rng=rng())
    assert len(heard) == len(voice(150))
    assert power_db(heard) == pytest.approx(power_db(voice(150)), abs=1e-3)


# --- speed and pitch --------------------------------------------------------------------------------------------------


def median_f0(signal, sr):
    assert sr == PITCH_SR
    f0_hz = track_pitch(active_speech(signal)).f0_hz
    return np.median(f0_hz[f0_hz > 0])


@pytest.mark.parametrize("factor", [0.88, 0.95, 1.05, 1.13])
def test_speed_changes_duration_and_pitch_by_its_factor(factor):
    fast = transforms.speed(voice(150), SR, factor)
    assert len(fast) == pytest.approx(len(voice(150)) / factor, abs=1)
    assert median_f0(fast, SR) == pytest.approx(150 * factor, rel=0.002)


@pytest.mark.parametrize("semitones", [-2, 2])
def test_pitch_moves_by_semitones_and_keeps_the_duration(semitones):
    shifted = transforms.pitch(voice(150), SR, semitones)
    assert len(shifted) == len(voice(150))
    assert median_f0(shifted, SR) == pytest.approx(150 * 2 ** (semitones / 12), rel=0.005)


# --- seeds ------------------------------------------------------------------------------------------------------------

DRAW = """
import hashlib, numpy as np
from emobench.stresses import Change
signal = np.sin(np.arange(8000) / 20).astype(np.float32)
for name in ("white-noise", "pink-noise", "room", "pitch", "mp3"):
    level = {"room": 0.3, "pitch": 2, "mp3": 16}.get(name, 10)
    print(hashlib.sha256(Change(name, level, seed=3)(signal, 16000, clip="ab").tobytes()).hexdigest())
"""


def test_the_same_seed_gives_the_same_bytes_in_every_process():
    once, again = (
        subprocess.check_output([sys.executable, "-c", DRAW], env={"PYTHONHASHSEED": seed, "PATH": ""}, text=True)
        for seed in ("1", "2")
    )
    assert once == again
    assert len(set(once.split())) == 5


def test_a_draw_depends_on_the_seed_and_on_the_recording_and_not_on_the_level():
    signal = voice(150)
    added = {
        (clip, seed, level): Change("white-noise", level, seed)(signal, SR, clip=clip) - signal
        for clip, seed, level in [("a", 0, 10.0), ("a", 1, 10.0), ("b", 0, 10.0), ("a", 0, 0.0)]
    }

    def likeness(one, other):
        return np.corrcoef(added[one], added[other])[0, 1]

    assert abs(likeness(("a", 0, 10.0), ("a", 1, 10.0))) < 0.05
    assert abs(likeness(("a", 0, 10.0), ("b", 0, 10.0))) < 0.05
    assert likeness(("a", 0, 10.0), ("a", 0, 0.0)) > 0.999
