"""`voice`: what emotion does to a voice, as a vector of named numbers; ``docs/voice.md`` explains each.

A recording becomes speech of known level (`speech`), that becomes a description of every 10 ms (`pitch`, `cycles`,
`spectrum`), and that becomes statistics over time (`functionals`, `rhythm`). It takes NumPy and SciPy's FFT alone.
"""

from __future__ import annotations

import numpy as np

from emobench.features.voice.cycles import measure_cycles
from emobench.features.voice.functionals import BLOCKS, NAMES, ROWS, summarise
from emobench.features.voice.pitch import semitones, track_pitch
from emobench.features.voice.spectrum import describe_spectrum
from emobench.features.voice.speech import SR, active_speech

__all__ = ["BLOCKS", "NAMES", "ROWS", "SR", "describe", "summarise"]


def describe(signal: np.ndarray, *, sr: int) -> np.ndarray:
    """Describe every 10 ms of a recording from where somebody begins to speak to where they end.

    Parameters
    ----------
    signal : array of shape (n_samples,)
        Mono, of any length.
    sr : int
        Its rate in Hz, which must be `SR`.

    Returns
    -------
    frames : float32 array of shape (len(ROWS), n_frames)
        Pitch and cycles are 0 where there is no voice.
    """
    if sr != SR:
        raise ValueError(f"sr of voice must be {SR}. Got {sr}.")
    speech = active_speech(signal)
    f0_hz, harmonicity_db = track_pitch(speech)
    is_voiced = f0_hz > 0
    frames = np.zeros((len(ROWS), len(f0_hz)), dtype=np.float32)
    frames[0, is_voiced] = semitones(f0_hz[is_voiced])
    frames[1:5, is_voiced] = measure_cycles(speech, f0_hz)
    frames[5] = harmonicity_db
    frames[6:] = describe_spectrum(speech)
    return frames
