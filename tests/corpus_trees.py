"""Folders of generated tones under the complete lists of names of published corpora.

The names of CREMA-D, SAVEE and RAVDESS follow from their grammar and the cells that were never recorded. EMO-DB's have
its counts by emotion and speaker, TESS's any 200 words.
"""

import os
import struct
from itertools import product
from pathlib import Path

import numpy as np

SR = 8_000
N_SAMPLES = 960  # 0.12 s

CREMA_SENTENCES = ["DFA", "IEO", "IOM", "ITH", "ITS", "IWL", "IWW", "MTI", "TAI", "TIE", "TSI", "WSI"]
CREMA_SAME_AUDIO = (("1006_TIE_HAP_XX", "1006_TIE_NEU_XX"), ("1013_WSI_DIS_XX", "1013_WSI_SAD_XX"))
CREMA_SAME_AUDIO += (("1017_IWW_ANG_XX", "1017_IWW_FEA_XX"),)
CREMA_SILENT = "1076_MTI_SAD_XX"
# By speaker, then W L E A F T N; the sums of rows and columns, and the single and empty cells of disgust and fear, are
# the corpus's own.
EMODB_COUNTS = {
    "03": (14, 6, 1, 5, 7, 7, 9),
    "08": (13, 10, 0, 6, 11, 8, 10),
    "09": (12, 5, 8, 1, 4, 4, 9),
    "10": (10, 8, 1, 8, 4, 3, 4),
    "11": (11, 8, 4, 10, 8, 6, 8),
    "12": (9, 5, 3, 6, 4, 4, 4),
    "13": (13, 9, 8, 7, 9, 6, 9),
    "14": (16, 9, 8, 12, 8, 9, 7),
    "15": (13, 9, 5, 7, 6, 4, 12),
    "16": (16, 12, 8, 7, 10, 11, 7),
}
EMODB_SENTENCES = ["a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10"]


def crema_d_names():
    def recorded(actor, sentence, emotion):
        cell = (actor, sentence)
        is_lost = cell in {(1008, "WSI"), (1009, "MTI"), (1019, "ITH")}
        return not is_lost and (*cell, emotion) not in {(1002, "TIE", "NEU"), (1076, "ITS", "NEU")}

    for actor, sentence, emotion in product(
        range(1001, 1092), CREMA_SENTENCES, ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
    ):
        has_levels = sentence == "IEO" and emotion != "NEU"
        for level in ("LO", "MD", "HI") if has_levels else ("XX",):
            if recorded(actor, sentence, emotion):
                yield f"{actor}_{sentence}_{emotion}_{level}"


def tess_names():
    words = ["".join(letters) for letters in product("bcdfg", "aeio", "klmnprstwz")]
    for speaker, word, emotion in product(
        ("OAF", "YAF"), words, ["angry", "disgust", "fear", "happy", "neutral", "ps", "sad"]
    ):
        yield f"{speaker}_{word}_{emotion}"


def savee_names():
    for speaker in ("DC", "JE", "JK", "KL"):
        for emotion in ("a", "d", "f", "h", "n", "sa", "su"):
            for number in range(1, 31 if emotion == "n" else 16):
                yield f"{speaker}_{emotion}{number:02d}"


def emodb_names():
    for speaker, counts in EMODB_COUNTS.items():
        for emotion, n in zip("WLEAFTN", counts, strict=True):
            for index in range(n):
                yield f"{speaker}{EMODB_SENTENCES[index % 10]}{emotion}{'abcdefg'[index // 10]}"


def ravdess_names():
    for actor, emotion, intensity, statement, repetition in product(range(1, 25), range(1, 9), (1, 2), (1, 2), (1, 2)):
        if (emotion, intensity) != (1, 2):
            name = f"03-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"
            yield f"Actor_{actor:02d}/{name}"


def tone(index, pitch_hz=200.0, *, sr=SR):
    """Return the bytes of a WAV that no other index has: a tone with `index` in the amplitude of its first samples."""
    time_s = np.arange(N_SAMPLES) / SR
    signal = (8000 * np.sin(2 * np.pi * pitch_hz * (1 + index % 97 / 2000) * time_s)).astype("<i2")
    signal[:16] = 100 + 50 * np.array([index >> bit & 1 for bit in range(16)])
    return wav(signal, sr=sr)


def wav(signal, *, sr=SR):
    data = signal.tobytes()
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, sr, 2 * sr, 2, 16, b"data", len(data)
    )
    return header + data


def write_tree(folder, paths, *, pitch_of=lambda path: 200.0):
    """Write a different tone under each relative path; return the folder."""
    for parent in {os.path.dirname(path) for path in paths}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(paths):
        (folder / path).write_bytes(tone(index, pitch_of(path)))
    return folder


def write_crema_d(folder, place="AudioWAV"):
    """Write CREMA-D with what is wrong with it: three pairs of the same audio, and one recording without a voice."""
    write_tree(folder, [f"{place}/{name}.wav" for name in crema_d_names()])
    home = Path(folder) / place
    for one, other in CREMA_SAME_AUDIO:
        (home / f"{other}.wav").write_bytes((home / f"{one}.wav").read_bytes())
    (home / f"{CREMA_SILENT}.wav").write_bytes(wav(np.zeros(N_SAMPLES, "<i2")))
    return folder
