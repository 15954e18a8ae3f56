"""RAVDESS: everything it says about a clip stands in its seven-field file name (Livingstone & Russo 2018)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import product
from pathlib import Path

from emobench.corpora import Scan, Utterance
from emobench.corpora.scanning import is_junk, names_in
from emobench.errors import CorpusError, listing

PATTERN = "MM-CC-EE-II-SS-RR-AA.wav or .flac in the folder Actor_AA"
SUFFIXES = (".wav", ".flac")
MAX_DEPTH = 3  # Kaggle's archive of four corpora lies so deep where it was unpacked into a folder of its own
ACTOR = re.compile(r"actor[ _-]?\d", re.IGNORECASE)

FIELDS = {  # in the order of the name; the meaning of each code
    "modality": {"01": "audio and video", "02": "video only", "03": "audio only"},
    "channel": {"01": "speech", "02": "song"},
    "emotion": {
        "01": "neutral",
        "02": "calm",
        "03": "happy",
        "04": "sad",
        "05": "angry",
        "06": "fearful",
        "07": "disgust",
        "08": "surprised",
    },
    "intensity": {"01": "normal", "02": "strong"},
    "statement": {"01": "1", "02": "2"},
    "repetition": {"01": "1", "02": "2"},
    "actor": {f"{actor:02d}": ("male" if actor % 2 else "female") for actor in range(1, 25)},
}

TEXTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}


def scan(root: Path, *, modalities: Collection[str] = ("03",), channels: Collection[str] = ("01",)) -> Scan:
    """Read the labels of a RAVDESS folder from its file names; no file is opened.

    Parameters
    ----------
    root : Path
        The folder that holds ``Actor_01`` … ``Actor_24``, or one up to three folders above it. Links are followed,
        out of `root` too: people keep the audio on another disk. Anything named like a clip counts as one, also a
        directory; the audio layer refuses what it cannot decode.
    modalities, channels : collection of str
        Codes as in the names. A clip of another modality is an error, one of another channel is left out, because
        speech (``01``) and song (``02``) are commonly unpacked into the same folders.

    Raises
    ------
    CorpusError
        If there is no clip, or with every clip whose name breaks the pattern, contradicts its folder, or stands for
        the same recording as another one.
    """
    home = find_home(Path(root))
    prefix = home.relative_to(root).as_posix() + "/" if home != Path(root) else ""
    clips, ignored = list_clips(home)
    utterances: dict[str, Utterance] = {}  # by folder and stem: what the recording is, whatever its format
    seen: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    problems = []
    for clip in clips:
        folder, _, file = clip.rpartition("/")
        stem = file.rpartition(".")[0]
        try:
            codes = parse(stem)
            check_place(codes, folder, modalities)
        except CorpusError as error:
            problems.append(f"{prefix + clip!r}: {error}")
            continue
        recording = f"{folder}/{stem}"
        if recording in seen:
            problems.append(f"{prefix + clip!r}: the same recording as {prefix + seen[recording]!r}; keep one of them")
            continue
        seen[recording] = clip
        if codes["channel"] in channels:
            utterances[recording] = describe(codes, prefix + clip)
        else:
            left_out[f"channel {codes['channel']} ({FIELDS['channel'][codes['channel']]})"] += 1
    if problems:
        raise CorpusError(
            f"RAVDESS clips must be called {PATTERN}. {len(problems)} of {len(clips)} in {os.path.abspath(root)} "
            f"break that:\n{listing(problems)}\nRename, move or remove them."
        )
    if not utterances:
        passed_over = "".join(f" Left out: {n} of {reason}." for reason, n in left_out.items())
        raise CorpusError(
            f"A RAVDESS folder must hold clips called {PATTERN}. None matches "
            f"{os.path.abspath(home)}/Actor_*/*.{{wav,flac}}.{passed_over} Correct the root, or run "
            f"`emobench data fetch ravdess`."
        )
    return Scan(
        utterances=tuple(sorted(utterances.values(), key=lambda utterance: utterance.path)),
        ignored=tuple(sorted(prefix + name for name in ignored)),
        left_out=dict(left_out),
        missing=tuple(name for name in complete_copy(modalities, channels) if name not in utterances),
    )


def parse(stem: str) -> dict[str, str]:
    """Return the code of each field of a name such as ``03-01-06-01-02-01-12``, or say what is wrong with it."""
    values = stem.split("-")
    if len(values) != len(FIELDS):
        raise CorpusError(f"{len(values)} field{'s' * (len(values) != 1)} instead of {len(FIELDS)}")
    codes = dict(zip(FIELDS, values, strict=True))
    unknown = [
        f"{field} {code!r} is none of {span(field)}" for field, code in codes.items() if code not in FIELDS[field]
    ]
    if unknown:
        raise CorpusError("; ".join(unknown))
    if codes["emotion"] == "01" and codes["intensity"] == "02":
        raise CorpusError("neutral (emotion '01') has no strong intensity ('02')")
    return codes


def span(field: str) -> str:
    """Return the codes of a field for a message: 01…08."""
    codes = list(FIELDS[field])
    return f"{codes[0]}…{codes[-1]}"


def check_place(codes: dict[str, str], folder: str, modalities: Collection[str]) -> None:
    """Raise where a clip is not in its actor's folder, or of a modality that was not asked for."""
    expected = f"Actor_{codes['actor']}"
    if folder != expected:
        raise CorpusError(f"the name says {expected}, but it lies in {repr(folder) if folder else 'no Actor folder'}")
    if codes["modality"] not in modalities:
        asked = " or ".join(modalities)
        raise CorpusError(
            f"modality {codes['modality']!r} ({FIELDS['modality'][codes['modality']]}) instead of {asked}"
        )


def describe(codes: dict[str, str], path: str) -> Utterance:
    """Return the utterance that a name's codes stand for."""
    meaning = {field: FIELDS[field][code] for field, code in codes.items()}
    return Utterance(
        path=path,
        corpus="ravdess",
        speaker=codes["actor"],
        emotion=meaning["emotion"],
        sex=meaning["actor"],
        statement=meaning["statement"],
        intensity=meaning["intensity"],
        repetition=meaning["repetition"],
        text=TEXTS[codes["statement"]],
    )


def complete_copy(modalities: Collection[str], channels: Collection[str]) -> Iterator[str]:
    """Yield ``Actor_AA/stem`` of every recording that RAVDESS has of these modalities and channels."""
    allowed = {**FIELDS, "modality": sorted(modalities), "channel": sorted(channels)}
    for values in sorted(product(*allowed.values()), key=lambda values: (values[-1], values)):
        codes = dict(zip(FIELDS, values, strict=True))
        never_strong = codes["emotion"] == "01" and codes["intensity"] == "02"
        never_sung = codes["channel"] == "02" and (codes["emotion"] in ("07", "08") or codes["actor"] == "18")
        if not never_strong and not never_sung:
            yield f"Actor_{codes['actor']}/{'-'.join(values)}"


def find_home(root: Path) -> Path:
    """Return the folder that holds the actors' folders: `root`, or the one folder near below it that does."""
    if not os.path.isdir(root):
        state = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise CorpusError(
            f"The root of RAVDESS must be a folder that holds Actor_01 … Actor_24. {os.path.abspath(root)} {state}. "
            f"Correct the root, or run `emobench data fetch ravdess`."
        )
    level = [root]
    for _ in range(MAX_DEPTH + 1):
        homes = [folder for folder in level if any(is_actor(folder, name) for name in names_in(folder))]
        if len(homes) > 1:
            raise CorpusError(
                f"The root of RAVDESS must hold one copy. {os.path.abspath(root)} holds several: "
                f"{', '.join(home.relative_to(root).as_posix() for home in homes)}. Set the root to one of them."
            )
        if homes:
            return homes[0]
        inside = [folder / name for folder in level for name in names_in(folder) if not is_junk(name)]
        level = [folder for folder in inside if os.path.isdir(folder)]
    return root


def list_clips(home: Path) -> tuple[list[str], list[str]]:
    """Return what is named like a clip, in `home` and in the actors' folders, and everything else that lies there."""
    clips, ignored = [], []
    for name in names_in(home):
        inside = [f"{name}/{inner}" for inner in names_in(home / name)] if is_actor(home, name) else [name]
        for path in inside:
            if is_junk(path) or not path.lower().endswith(SUFFIXES):
                ignored.append(f"{path}/" if os.path.isdir(home / path) else path)
            else:
                clips.append(path)
    return clips, ignored


def is_actor(folder: Path, name: str) -> bool:
    """Whether a folder is meant for an actor; ``actor_1`` counts, so that its clips are reported, not passed over."""
    return ACTOR.match(name) is not None and os.path.isdir(folder / name)
