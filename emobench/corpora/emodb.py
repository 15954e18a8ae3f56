"""EMO-DB (Burkhardt et al. 2005): speaker, sentence, emotion by its German initial, and take."""

from pathlib import Path

from emobench.corpora import Scan
from emobench.corpora.names import coded, scan_names

# Wut, Langeweile, Ekel, Angst, Freude, Trauer
EMOTIONS = coded("W: angry | L: boredom | E: disgust | A: fearful | F: happy | T: sad | N: neutral")
FEMALE = ("08", "09", "13", "14", "16")
TEXTS = coded(
    "a01: Der Lappen liegt auf dem Eisschrank. | a02: Das will sie am Mittwoch abgeben. | "
    "a04: Heute abend könnte ich es ihm sagen. | a07: In sieben Stunden wird es soweit sein. | "
    "a05: Das schwarze Stück Papier befindet sich da oben neben dem Holzstück. | "
    "b01: Was sind denn das für Tüten, die da unter dem Tisch stehen? | "
    "b02: Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter. | "
    "b03: An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht. | "
    "b09: Ich will das eben wegbringen und dann mit Karl was trinken gehen. | "
    "b10: Die wird auf dem Platz sein, wo wir sie immer hinlegen."
)
N_OF = {
    "speaker": {"03": 49, "08": 58, "09": 43, "10": 38, "11": 55, "12": 35, "13": 61, "14": 69, "15": 56, "16": 71},
    "emotion": {"angry": 127, "boredom": 81, "neutral": 79, "happy": 71, "fearful": 69, "sad": 62, "disgust": 46},
}


def scan(root: Path) -> Scan:
    """Read speaker, sentence, emotion and take from names such as ``03a01Fa.wav``."""
    pattern = r"(?P<speaker>03|08|09|1[0-6])(?P<sentence>a0[12457]|b0[1239]|b10)(?P<emotion>[WLEAFTN])(?P<take>[a-g])"
    called = "SSTTTEv.wav, such as 03a01Fa.wav"
    return scan_names(root, title="EMO-DB", called=called, pattern=pattern, describe=describe, n_of=N_OF)


def describe(folder: str, speaker: str, sentence: str, emotion: str, take: str) -> tuple[str, dict[str, str]]:
    """Return official name and fields."""
    sentence, emotion, take = sentence.lower(), emotion.upper(), take.lower()
    fields = {"speaker": speaker, "emotion": EMOTIONS[emotion], "sex": "female" if speaker in FEMALE else "male"}
    fields |= {"statement": sentence, "text": TEXTS[sentence], "repetition": take}
    return f"{speaker}{sentence}{emotion}{take}", fields
