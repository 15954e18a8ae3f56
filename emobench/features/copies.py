"""Altered copies of recordings: made when their features are computed, kept in the store as vectors, never as sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from emobench.audio import Audio, AudioPolicy
from emobench.audio.decoding import read_clip, resample
from emobench.errors import AudioError, DataError, on_one_line
from emobench.files import digest
from emobench.stresses import Change, get_stress

N_VOICES = 5
MIN_VOICES = 2  # fewer are no babble


@dataclass(frozen=True)
class Original:
    """A recording that copies are made of: its clip id, its file, and who speaks in it."""

    clip: str
    path: Path
    speaker: str


@dataclass(frozen=True)
class Copy:
    """A changed recording.

    Attributes
    ----------
    original : Original
    change : Change
    voices : tuple of Original
        Who else is heard.

    Raises
    ------
    DataError
        If a voice is the speaker's own: the answer would be about both.
    """

    original: Original
    change: Change
    voices: tuple[Original, ...] = ()

    def __post_init__(self) -> None:
        own = [voice for voice in self.voices if voice.speaker == self.original.speaker]
        if own:
            raise DataError(
                f"{self}: must be heard among other speakers. {own[0].path} is by {own[0].speaker!r} too. "
                "Take voices of others."
            )

    def __str__(self) -> str:
        return f"{self.original.path}#{self.change.stress}{self.change.level:g}"

    @cached_property
    def clip(self) -> str:
        """What the store knows it by: a hash of the recordings' bytes and of the change."""
        voices = {"voices": [voice.clip for voice in self.voices]} if self.voices else {}
        return digest({"clip": self.original.clip, "change": self.change.specification(), **voices})

    def make(self, policy: AudioPolicy) -> Audio:
        """Return the changed recording, with the audio id of the original; raise `AudioError` if it cannot be made."""
        audio = read_clip(self.original.path, self.original.clip, policy)
        voices = [_voice(voice, audio.sr, policy) for voice in self.voices]
        try:
            signal = self.change(audio.signal, audio.sr, clip=audio.content, voices=voices)
        except AudioError:
            raise
        except (Exception, SystemExit) as error:  # of a plug-in, or a library without this codec
            raise AudioError(self, on_one_line(f"{type(error).__name__}: {error}").rstrip(".") + ".") from error
        return replace(audio, signal=signal, clip=self.clip)


def copies_of(originals: Sequence[Original], change: Change, *, rows: Sequence[int] | None = None) -> list[Copy]:
    """Return a copy of each recording, or of some rows of them; the others lend their voices where those are needed.

    Raises
    ------
    DataError
        If voices are needed, and a recording has fewer than two other speakers.
    """
    chosen = range(len(originals)) if rows is None else rows
    if not get_stress(change.stress).takes_voices:
        return [Copy(originals[row], change) for row in chosen]
    of_speaker: dict[str, list[Original]] = {}
    for original in sorted(originals, key=lambda one: (one.speaker, one.clip)):
        of_speaker.setdefault(original.speaker, []).append(original)
    return [Copy(originals[row], change, _voices_for(originals[row], change, of_speaker)) for row in chosen]


def _voices_for(original: Original, change: Change, of_speaker: dict[str, list[Original]]) -> tuple[Original, ...]:
    """Draw a recording of each of some other speakers; the same ones at every level."""
    others = [speaker for speaker in of_speaker if speaker != original.speaker]
    if len(others) < MIN_VOICES:
        raise DataError(
            f"{change.stress!r} takes recordings of at least {MIN_VOICES} other speakers. The corpus has "
            f"{len(others)} besides {original.speaker!r}. Leave it out."
        )
    rng = np.random.default_rng(int(digest([change.stress, change.seed, original.clip])[:16], 16))
    chosen = rng.choice(len(others), min(N_VOICES, len(others)), replace=False)
    heard = [of_speaker[others[number]] for number in chosen]
    return tuple(recordings[rng.integers(len(recordings))] for recordings in heard)


@lru_cache(maxsize=64)
def _voice(original: Original, sr: int, policy: AudioPolicy) -> np.ndarray:
    """Return a recording at a rate; recordings of babble come again and again."""
    audio = read_clip(original.path, original.clip, policy)
    return resample(audio.signal, audio.sr, sr)
