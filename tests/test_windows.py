"""A long recording in windows: each answer is that of the window cut out of the whole signal, whatever the blocks."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import soundfile
from conftest import PITCH_HZ, SR, tone
from fitted import SPEC, bundle_of, changed
from hypothesis import given, settings
from hypothesis import strategies as st

from emobench.audio import AudioPolicy, streaming
from emobench.audio.decoding import read_audio, resample
from emobench.audio.streaming import open_stream, resampled, windows
from emobench.bundles.storage import write_bundle
from emobench.errors import AudioError, ConfigError
from emobench.features.extraction import vectorise
from emobench.models import build, get_model
from emobench.prediction.predictor import SEEN, SILENT, UNCERTAIN, Predictor

CLASSES = ("angry", "happy", "sad")
FORMATS = {"wav": {"subtype": "PCM_16"}, "flac": {}, "ogg": {}, "mp3": {}}


@pytest.fixture(scope="module")
def bundle():
    """A perceptron that tells three pitches apart, and gives probabilities."""
    rng = np.random.default_rng(1)
    y = np.arange(30) % 3
    signals = [tone(PITCH_HZ[CLASSES[code]], rng.uniform(0.6, 0.9), rng) for code in y]
    X = np.array([vectorise(SPEC, signal, SR, path="x") for signal in signals])
    params = {"hidden_layer_sizes": [8], "max_iter": 300}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = build(get_model("mlp"), params, random_state=0).fit(X, y)
    return bundle_of(estimator, X, model="mlp", classes=CLASSES)


@pytest.fixture(scope="module")
def predictor(bundle):
    return Predictor(bundle)


@pytest.fixture
def small_blocks(monkeypatch):
    """Read 1,000 samples at a time, so that a window spans many blocks."""
    monkeypatch.setattr(streaming, "BLOCK_SAMPLES", 1000)


def speech(sr, duration_s=4.0, seed=0):
    """Return a signal that changes its emotion every second, float32 of shape (n_samples,)."""
    rng = np.random.default_rng(seed)
    emotions = [CLASSES[second % 3] for second in range(int(np.ceil(duration_s)))]
    parts = [tone(PITCH_HZ[emotion], 0.8, rng, duration_s=1.0, sr=sr) for emotion in emotions]
    return np.concatenate(parts)[: int(duration_s * sr)]


# --- cutting --------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(1, 60),
    length=st.integers(1, 20),
    hop=st.integers(1, 25),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_windows_do_not_depend_on_the_blocks(n, length, hop, cuts):
    signal = np.arange(n, dtype=np.float32)
    blocks = np.split(signal, sorted(min(cut, n) for cut in cuts))
    found = [(start, samples.tolist()) for start, samples in windows(iter(blocks), length, hop)]
    n_windows = 1 + max(0, -(-(n - max(length, hop)) // hop))
    assert found == [(i * hop, signal[i * hop : i * hop + length].tolist()) for i in range(n_windows)]


def test_windows_reach_the_end_once():
    """The last window is the first that reaches the end; none lies within another."""
    assert [(start, len(w)) for start, w in windows(iter([np.zeros(10)]), 4, 2)] == [(0, 4), (2, 4), (4, 4), (6, 4)]
    assert [(start, len(w)) for start, w in windows(iter([np.zeros(11)]), 4, 2)][-2:] == [(6, 4), (8, 3)]
    assert [(start, len(w)) for start, w in windows(iter([np.zeros(3)]), 4, 2)] == [(0, 3)]
    assert list(windows(iter([]), 4, 2)) == []


@pytest.mark.parametrize("sr", [8_000, 16_000, 44_100, 48_000, 22_050])
@pytest.mark.parametrize("n", [1, 999, 1000, 50_001])
def test_resampling_in_blocks_is_resampling(sr, n):
    signal = np.random.default_rng(0).uniform(-1, 1, n).astype(np.float32)
    blocks = (signal[start : start + 1000] for start in range(0, n, 1000))
    np.testing.assert_allclose(np.concatenate(list(resampled(blocks, sr, SR))), resample(signal, sr, SR), atol=1e-6)


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("sr", "n_channels"), [(48_000, 1), (16_000, 2), (22_050, 1)])
def test_answers_are_those_of_windows_cut_out(predictor, small_blocks, tmp_path, suffix, sr, n_channels):
    path = tmp_path / f"long.{suffix}"
    soundfile.write(path, np.stack([speech(sr)] * n_channels, axis=1), sr, **FORMATS[suffix])
    recording = read_audio(path)
    whole = resample(recording.signal, recording.sr, SR)
    answers = list(predictor.predict_windows(path, window_s=1.5, hop_s=0.7))
    assert len(answers) == 5
    for i, answer in enumerate(answers):
        start, end = i * round(0.7 * SR), min(i * round(0.7 * SR) + round(1.5 * SR), len(whole))
        alone = predictor.predict(whole[start:end], SR)
        assert (answer.start_s, answer.end_s) == pytest.approx((start / SR, end / SR), abs=1e-6)
        assert answer.emotion == alone.emotion
        assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
        assert (answer.path, answer.entry) == (str(path), "mlp")


def test_windows_hear_the_emotion_change(predictor, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, speech(SR, 6.0), SR)
    answers = predictor.predict_windows(path, window_s=1.0, hop_s=1.0)
    assert [answer.emotion for answer in answers] == ["angry", "happy", "sad"] * 2


def test_windows_of_a_signal_are_those_of_its_file(predictor, tmp_path):
    signal = speech(16_000)
    soundfile.write(tmp_path / "long.wav", signal, 16_000, subtype="FLOAT")
    of_file = predictor.predict_windows(tmp_path / "long.wav", window_s=1.0, hop_s=0.5)
    of_signal = predictor.predict_windows(signal, 16_000, window_s=1.0, hop_s=0.5)
    for one, other in zip(of_file, of_signal, strict=True):
        assert (one.start_s, one.end_s, one.emotion) == (other.start_s, other.end_s, other.emotion)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_short_recording_is_one_window(predictor, tiny_corpus):
    path = tiny_corpus / "s0" / "sad-0.wav"
    [answer] = predictor.predict_windows(path)
    assert (answer.start_s, answer.end_s, answer.emotion) == (0.0, 0.3, "sad")
    assert answer.probabilities == pytest.approx(predictor.predict(path).probabilities, abs=1e-5)


def test_last_window_too_short_for_a_recording_is_left_out(predictor):
    for rest_s, n_windows in ((0.05, 2), (0.2, 3)):
        answers = list(predictor.predict_windows(speech(SR, 2.0 + rest_s), SR, window_s=1.0, hop_s=1.0))
        assert len(answers) == n_windows


def test_silent_window_is_answered_with_a_warning(predictor):
    signal = np.concatenate([speech(SR, 1.0), np.zeros(SR, np.float32)])
    answers = list(predictor.predict_windows(signal, SR, window_s=1.0, hop_s=1.0))
    assert [bool(answer.warning) for answer in answers] == [False, True]
    assert [answer.marks for answer in answers] == [(), (SILENT,)]


def test_windows_of_a_training_recording_say_so(bundle, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, speech(SR, 2.0), SR)
    seen = Predictor(changed(bundle, audio_ids=[read_audio(path).content[:16]]))
    for audio in ((path,), soundfile.read(path), (path.read_bytes(),)):
        answers = list(seen.predict_windows(*audio, window_s=1.0, hop_s=1.0))
        assert [answer.marks for answer in answers] == [(SEEN,)] * 2


def unknown_length(path, suffix):
    """Take the length out of a file."""
    data = bytearray(path.read_bytes())
    if suffix == "wav":
        data[4:8] = data[40:44] = b"\xff" * 4
    elif suffix == "flac":
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    else:
        data = data[data.index(data[:2], 4) :]  # without the first frame, which describes the others
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_windows_reach_the_end_of_a_recording_of_unknown_length(predictor, small_blocks, tmp_path, suffix):
    path = tmp_path / f"long.{suffix}"
    # Loud at first: of an MP3 of variable bit rate, the first frames are then larger than the others.
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 22_050)
    options = {"bitrate_mode": "VARIABLE"} if suffix == "mp3" else FORMATS[suffix]
    soundfile.write(path, np.concatenate([noise, 0.1 * speech(22_050, 5.0)]), 22_050, **options)
    unknown_length(path, suffix)
    answers = list(predictor.predict_windows(path, window_s=1.0, hop_s=1.0))
    assert len(answers) in (6, 7)
    assert answers[-1].end_s == pytest.approx(6.0, abs=0.1)
    warning = "" if suffix == "mp3" else "length unknown: read to the end"
    assert [answer.warning for answer in answers] == [warning] + [""] * (len(answers) - 1)


def test_threshold_makes_windows_uncertain(predictor):
    answers = list(predictor.predict_windows(speech(SR), SR, window_s=1.0, hop_s=0.5, threshold=0.9))
    for answer in answers:
        best = max(answer.probabilities, key=answer.probabilities.get)
        assert answer.emotion == (best if answer.probabilities[best] >= 0.9 else UNCERTAIN)
    assert {answer.emotion for answer in answers} > {UNCERTAIN}


@pytest.mark.parametrize(
    ("window_s", "hop_s"), [(0, 1), (-1, 1), (float("nan"), 1), (1e9, 1), (0.05, 1), (1, 0), (1, -1), (1, float("nan"))]
)
def test_windows_that_cannot_be_are_refused_at_once(predictor, window_s, hop_s):
    with pytest.raises(ConfigError, match="must"):
        predictor.predict_windows("nowhere.wav", window_s=window_s, hop_s=hop_s)


# --- what cannot be read to its end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_recording_is_an_error_and_never_a_shorter_one(predictor, small_blocks, tmp_path, suffix):
    path = tmp_path / f"long.{suffix}"
    soundfile.write(path, speech(SR, 8.0), SR, **FORMATS[suffix])
    n_windows = len(list(predictor.predict_windows(path, window_s=1.0)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    seen = []
    with pytest.raises(AudioError, match=str(path)):
        seen.extend(predictor.predict_windows(path, window_s=1.0))
    assert len(seen) < n_windows


def test_stream_refuses_what_no_header_explains(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "short.wav", np.zeros(100), SR)
    for name in ("empty.wav", "text.wav", "short.wav", "none.wav"):
        with pytest.raises(AudioError), open_stream(tmp_path / name, AudioPolicy()):
            pass


def test_stereo_is_refused_where_the_model_wants_mono(bundle, tmp_path):
    soundfile.write(tmp_path / "two.wav", np.zeros((SR, 2)), SR)
    strict = Predictor(changed(bundle, trained_on={"mono": "error"}))
    with pytest.raises(AudioError, match="mono"):
        list(strict.predict_windows(tmp_path / "two.wav"))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_length(bundle, tmp_path):
    """Ten times the length takes the same memory, to a few MB; read at once it would be 40 MB more."""
    write_bundle(tmp_path / "mlp", bundle)
    code = """
import pathlib, sys, emobench
answers = emobench.load(sys.argv[1]).predict_windows(sys.argv[2])
n = sum(1 for _ in answers)
# Not ru_maxrss, which begins with the peak of the process that started this one.
status = pathlib.Path("/proc/self/status").read_text()
print(n, next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
"""
    peaks = []
    for minutes in (1, 10):
        path = tmp_path / f"{minutes}.wav"
        soundfile.write(path, np.tile(speech(16_000, 60.0), minutes), 16_000)
        run = [sys.executable, "-c", code, str(tmp_path / "mlp"), str(path)]
        n_windows, peak_kb = map(int, subprocess.check_output(run).split())
        assert n_windows == 60 * minutes - 2
        peaks.append(peak_kb)
    assert peaks[1] - peaks[0] < 8_000


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(bundle, tmp_path, capsys):
    """Run `emobench predict` with the bundle; return the exit code, stdout and stderr."""
    from emobench.cli.main import main

    write_bundle(tmp_path / "mlp", bundle)

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["predict", "-q", "--model", str(tmp_path / "mlp"), *map(str, arguments)])
        return caught.value.code, *capsys.readouterr()

    return run


def test_command_writes_a_label_track(command, tmp_path):
    path = tmp_path / "=long.wav"
    soundfile.write(path, speech(SR, 3.0), SR)
    code, out, err = command(path, "--window", "1", "--hop", "1", "--jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [(row["start_s"], row["end_s"], row["emotion"]) for row in rows] == [
        (0.0, 1.0, "angry"),
        (1.0, 2.0, "happy"),
        (2.0, 3.0, "sad"),
    ]
    assert json.loads(command(path, "--window", "1", "--json")[1]) == rows
    header, *lines = command(path, "--window", "1", "--csv")[1].splitlines()
    assert header == "path,start_s,end_s,emotion,p_angry,p_happy,p_sad,warning,error,marks"
    assert [line.split(",")[1:4] for line in lines] == [
        ["0.0", "1.0", "angry"],
        ["1.0", "2.0", "happy"],
        ["2.0", "3.0", "sad"],
    ]
    assert command(path, "--window", "1")[1].splitlines()[0].split("\t")[1:4] == ["0.000", "1.000", "angry"]


def test_command_csv_starts_no_formula(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("=long.wav", speech(SR, 1.0), SR)
    assert command("=long.wav", "--csv")[1].splitlines()[1].startswith("'=long.wav,angry,")


def test_command_goes_on_after_a_recording_that_breaks_off(command, tmp_path):
    good, cut = tmp_path / "good.flac", tmp_path / "cut.flac"
    soundfile.write(good, speech(SR, 3.0), SR)
    cut.write_bytes(good.read_bytes()[: good.stat().st_size * 2 // 3])
    code, out, _ = command(cut, tmp_path / "none.wav", good, "--window", "1", "--jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 4
    assert [row["path"] for row in rows if "error" in row] == [str(cut), str(tmp_path / "none.wav")]
    assert [row["emotion"] for row in rows if row["path"] == str(good)] == ["angry", "happy", "sad"]
    assert command(tmp_path / "none.wav", "--window", "1", "--jsonl")[0] == 3


@pytest.mark.parametrize(
    "options",
    [["--hop", "1"], ["--window", "1", "--output", "x"], ["--window", "x"], ["--window", "0"], ["--json", "--csv"]],
)
def test_command_refuses_windows_that_make_no_sense(command, tiny_corpus, options):
    assert command(tiny_corpus / "s0" / "sad-0.wav", *options)[0] == 2
