"""CREMA-D (Cao et al. 2014): all that it says of a recording stands in its name."""

from pathlib import Path

from emobench.corpora import Scan
from emobench.corpora.names import coded, combine, scan_names

EMOTIONS = coded("ANG: angry | DIS: disgust | FEA: fearful | HAP: happy | NEU: neutral | SAD: sad")
LEVELS = coded("LO: low | MD: medium | HI: high")
TEXTS = coded(
    "IEO: It's eleven o'clock. | TIE: That is exactly what happened. | IOM: I'm on my way to the meeting. | "
    "IWW: I wonder what this is about. | TAI: The airplane is almost full. | MTI: Maybe tomorrow it will be cold. | "
    "IWL: I would like a new alarm clock. | ITH: I think I have a doctor's appointment. | DFA: Don't forget a jacket. "
    "| ITS: I think I've seen this before. | TSI: The surface is slick. | WSI: We'll stop in a couple of minutes."
)
FEMALE = (  # actors 10xx
    "02 03 04 06 07 08 09 10 12 13 18 20 21 24 25 28 29 30 37 43 46 47 49 52 53 54 55 56 58 60 61 63 72 73 74 75 76 78 "
    "79 82 84 89 91"
)
NEVER_RECORDED = ("1002_TIE_NEU", "1008_WSI", "1009_MTI", "1019_ITH", "1076_ITS_NEU")
SAME_AUDIO = (("1006_TIE_HAP", "1006_TIE_NEU"), ("1013_WSI_DIS", "1013_WSI_SAD"), ("1017_IWW_ANG", "1017_IWW_FEA"))
NOT_IN_TFDS = ("1006_TIE_NEU_XX", "1013_WSI_DIS_XX", "1017_IWW_FEA_XX", "1040_ITH_SAD_XX")
DEFECTS = {
    "known": {f"{name}_XX": f"one audio for {' and '.join(pair)}" for pair in SAME_AUDIO for name in pair}
    | {"1076_MTI_SAD_XX": "no voice"},
    "tfds": dict.fromkeys(NOT_IN_TFDS, "not in TensorFlow Datasets"),
}


def scan(root: Path) -> Scan:
    """Read actor, sentence, emotion and level from names such as ``1001_IEO_ANG_HI.wav``."""
    pattern = rf"(?P<actor>10(?:0[1-9]|[1-8]\d|9[01]))_(?P<sentence>{'|'.join(TEXTS)})_"
    pattern += rf"(?P<emotion>{'|'.join(EMOTIONS)})_(?P<level>LO|MD|HI|XX?)"
    called = "AAAA_SSS_EEE_LL.wav, such as 1001_IEO_ANG_HI.wav"
    return scan_names(
        root, title="CREMA-D", called=called, pattern=pattern, describe=describe, complete=complete, defects=DEFECTS
    )


def describe(folder: str, actor: str, sentence: str, emotion: str, level: str) -> tuple[str, dict[str, str]]:
    """Return official name and fields; ``X`` is how older copies write the level ``XX``: none was asked for."""
    sentence, emotion, level = sentence.upper(), emotion.upper(), level.upper()
    fields = {"speaker": actor, "emotion": EMOTIONS[emotion], "sex": "female" if actor[2:] in FEMALE else "male"}
    fields |= {"statement": sentence, "text": TEXTS[sentence], "intensity": LEVELS.get(level, "")}
    return f"{actor}_{sentence}_{emotion}_{level if level in LEVELS else 'XX'}", fields


def complete(_: object) -> list[str]:
    """Return what was recorded: one sentence at three levels, all others and what is neutral at none."""
    actors, others = [str(actor) for actor in range(1001, 1092)], set(TEXTS) - {"IEO"}
    names = combine(actors, others, EMOTIONS, ["XX"]) + combine(actors, ["IEO"], ["NEU"], ["XX"])
    names += combine(actors, ["IEO"], set(EMOTIONS) - {"NEU"}, LEVELS)
    return sorted(name for name in names if not name.startswith(NEVER_RECORDED))
