"""SAVEE (Haq & Jackson 2010): the speaker stands in the folder's name, or in copies before the file's."""

from pathlib import Path

from emobench.corpora import Scan
from emobench.corpora.names import coded, scan_names
from emobench.errors import CorpusError

EMOTIONS = coded("a: angry | d: disgust | f: fearful | h: happy | n: neutral | sa: sad | su: surprised")
SPEAKERS = ("DC", "JE", "JK", "KL")


def scan(root: Path) -> Scan:
    """Read speaker, emotion and number from names such as ``DC/sa01.wav`` and ``DC_sa01.wav``."""
    pattern = rf"(?:(?P<speaker>{'|'.join(SPEAKERS)})_)?(?P<emotion>a|d|f|h|n|sa|su)(?P<number>0[1-9]|[12]\d|30)"
    called = "DC/a01.wav or DC_a01.wav, of the speakers DC, JE, JK and KL"
    return scan_names(root, title="SAVEE", called=called, pattern=pattern, describe=describe, complete=complete)


def describe(folder: str, speaker: str | None, emotion: str, number: str) -> tuple[str, dict[str, str]]:
    """Return official name and fields. No statement: which sentences two emotions share is not in the names."""
    speaker, emotion = (speaker or folder).upper(), emotion.lower()
    if speaker not in SPEAKERS:
        raise CorpusError("neither its name nor its folder tells the speaker")
    if emotion != "n" and number > "15":
        raise CorpusError(f"{EMOTIONS[emotion]} has 15 recordings")
    fields = {"speaker": speaker, "emotion": EMOTIONS[emotion], "sex": "male", "repetition": number}
    return f"{speaker}_{emotion}{number}", fields


def complete(_: object) -> list[str]:
    """Return 15 recordings of each emotion and 30 neutral ones, of each speaker."""
    numbers = {emotion: range(1, 31 if emotion == "n" else 16) for emotion in EMOTIONS}
    return [f"{s}_{emotion}{n:02d}" for s in SPEAKERS for emotion in EMOTIONS for n in numbers[emotion]]
