"""TESS (Pichora-Fuller & Dupuis): the emotion stands in the file's name; its folder is spelled in many ways."""

from collections.abc import Sequence
from pathlib import Path

from emobench.corpora import Scan, Utterance
from emobench.corpora.names import coded, combine, scan_names

EMOTIONS = coded(
    "angry: angry | disgust: disgust | fear: fearful | happy: happy | neutral: neutral | ps: surprised | sad: sad"
)
SPEAKERS = ("OAF", "YAF")  # the older and the younger woman


def scan(root: Path) -> Scan:
    """Read speaker, word and emotion from names such as ``OAF_back_angry.wav``."""
    pattern = rf"(?P<speaker>OAF?|YAF)_(?P<word>[a-z]+)_(?P<emotion>{'|'.join(EMOTIONS)})"
    called = "SSS_word_emotion.wav, such as OAF_back_angry.wav"
    return scan_names(root, title="TESS", called=called, pattern=pattern, describe=describe, complete=complete)


def describe(folder: str, speaker: str, word: str, emotion: str) -> tuple[str, dict[str, str]]:
    """Return official name and fields; ``OA`` is a slip for OAF that copies have."""
    speaker, word, emotion = SPEAKERS[speaker.upper() == "YAF"], word.lower(), emotion.lower()
    fields = {"speaker": speaker, "emotion": EMOTIONS[emotion], "sex": "female", "statement": word}
    return f"{speaker}_{word}_{emotion}", fields | {"text": f"Say the word {word}."}


def complete(utterances: Sequence[Utterance]) -> list[str]:
    """Return every word that is there, by both speakers and with every emotion."""
    return combine(SPEAKERS, sorted({utterance.statement for utterance in utterances}), EMOTIONS)
