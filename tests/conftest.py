"""What every test shares: a corpus that takes milliseconds, and a user's folders that are not the user's."""

import csv
import os
import signal

import numpy as np
import pytest
import soundfile

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import ONNX Runtime themselves
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it, and subprocesses inherit that

SR = 22_050
PITCH_HZ = {"angry": 320.0, "happy": 210.0, "sad": 110.0}


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path_factory):
    """Point the feature store, the corpora and the user's cache into a fresh folder, in subprocesses too."""
    folder = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("EMOBENCH_STORE", str(folder / "store"))
    monkeypatch.setenv("EMOBENCH_DATA", str(folder / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """Folder with ``manifest.csv`` and 24 WAVs of 0.3 s: 4 speakers × 3 emotions × 2. Read only; copy it to change it.

    Emotions differ by pitch, speakers by spectral tilt, so that models learn them in no time.
    """
    return write_corpus(tmp_path_factory.mktemp("tiny"))


def write_corpus(folder, *, n_speakers=4, n_repetitions=2):
    """Write the recordings and the CSV of a tiny corpus; return the folder."""
    rng = np.random.default_rng(0)
    rows = []
    for speaker in range(n_speakers):
        for emotion in PITCH_HZ:
            for repetition in range(n_repetitions):
                path = f"s{speaker}/{emotion}-{repetition}.wav"
                (folder / path).parent.mkdir(exist_ok=True)
                soundfile.write(folder / path, tone(PITCH_HZ[emotion], 0.6 + 0.1 * speaker, rng), SR)
                sex = "female" if speaker % 2 else "male"
                rows.append({"path": path, "speaker": f"s{speaker}", "emotion": emotion, "sex": sex})
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def tone(pitch_hz, tilt, rng, *, duration_s=0.3, sr=SR):
    """Return a harmonic tone in a little noise, float32 of shape (n_samples,)."""
    time_s = np.arange(int(duration_s * sr)) / sr
    pitch_hz = pitch_hz * rng.uniform(0.97, 1.03)
    harmonics = [tilt**k * np.sin(2 * np.pi * pitch_hz * (k + 1) * time_s + k) for k in range(12)]
    signal = np.sum(harmonics, axis=0) + 0.01 * rng.standard_normal(len(time_s))
    return (0.5 * signal / np.abs(signal).max()).astype(np.float32)
