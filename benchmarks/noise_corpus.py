"""A corpus of any number of short noises, with a manifest: for what grows with the number of clips.

    python benchmarks/noise_corpus.py DIR --clips 10000 [--seconds 1]

Speakers have a hundred clips each, and every emotion a timbre of its own, so that models have something to learn. At
8 kHz in 16 bits, a hundred thousand clips of a second take 1.6 GB.
"""

import argparse
import csv
import wave
from pathlib import Path

import numpy as np

SR = 8000
CLIPS_A_SPEAKER = 100
EMOTIONS = ("angry", "calm", "fearful", "happy", "sad")


def make(folder, n_clips, *, seconds=1.0, seed=0):
    """Write the clips and ``manifest.csv`` to a folder; return the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "speaker", "emotion", "sex"])
        for number in range(n_clips):
            speaker, code = number // CLIPS_A_SPEAKER, number % len(EMOTIONS)
            name = f"{speaker:06d}/{number:08d}.wav"
            if number % CLIPS_A_SPEAKER == 0:
                (folder / name).parent.mkdir(exist_ok=True)
            noise = rng.normal(scale=1500, size=int(seconds * SR))
            noise[1:] += (code - 2) * 0.2 * noise[:-1]  # a tilt of the spectrum
            _write(folder / name, noise)
            writer.writerow([name, f"s{speaker:06d}", EMOTIONS[code], ("female", "male")[speaker % 2]])
    return folder / "manifest.csv"


def _write(path, signal):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SR, len(signal), "NONE", ""))
        file.writeframes(signal.astype("<i2").tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    print(make(given.folder, given.clips, seconds=given.seconds))


if __name__ == "__main__":
    main()
