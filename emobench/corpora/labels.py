"""Names of emotions and speakers: which look alike, what a config makes of them, and the LabelEncoder of a dataset.

A name in two spellings is a leak where it is a speaker's, and a lost class where it is an emotion's, so neither is
guessed: what looks alike is an error until the config says whether it is one or two.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from emobench.corpora import Scan, Utterance
from emobench.errors import ConfigError, CorpusError, did_you_mean, listing

if TYPE_CHECKING:
    from sklearn.preprocessing import LabelEncoder

# What corpora call the same emotion alike, so that they can be compared and trained on together.
COMMON = ("angry", "boredom", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")

MAX_LINES = 5  # of a list that are named for one spelling

_DECIMALS = re.compile(r"[.,]0+$")  # what a spreadsheet makes of 3
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_BLANK = "\u034f\u115f\u1160\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10)))  # seen as nothing


def fit_encoder(classes: Sequence[str]) -> LabelEncoder:
    """Return a LabelEncoder fitted on the declared emotions: code i is the i-th of them in alphabetical order."""
    from sklearn.preprocessing import LabelEncoder

    return LabelEncoder().fit(list(classes))


# --- names that look alike --------------------------------------------------------------------------------------------


def spellings(name: str) -> set[str]:
    """Return what two names have in common that look alike.

    A name after NFKC and case folding, without spaces, punctuation, invisible characters, a final ``.0`` and leading
    zeros of its numbers. These are dropped before or after the punctuation, because ``1-01`` looks like ``1-1``, and
    ``0-3`` like ``3``.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = _DECIMALS.sub("", _without("ZC", text))
    return {_LEADING_ZEROS.sub("", _without("P", text)), _without("P", _LEADING_ZEROS.sub("", text))} - {""} or {text}


def _without(categories: str, text: str) -> str:
    """Return a text without characters of some Unicode categories, and without those that are seen as nothing."""
    return "".join(char for char in text if unicodedata.category(char)[0] not in categories and char not in _BLANK)


def look_alikes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of different names that look alike; of several, each with the first."""
    first: dict[str, str] = {}
    pairs = []
    for name in sorted(set(names)):
        others = {first.setdefault(spelling, name) for spelling in spellings(name)} - {name}
        pairs += [(min(others), name)] if others else []
    return pairs


# --- what a config makes of them --------------------------------------------------------------------------------------


def relabel(found: Scan, labels: Mapping[str, str], *, name: str, is_strict: bool = True) -> Scan:
    """Give utterances the emotions that a config names for their labels.

    Parameters
    ----------
    labels : mapping
        Label of the corpus → label in results.
    name : str
        What results call the corpus.
    is_strict : bool
        Whether each of the labels must be the corpus's; not where another corpus stands in for it.

    Raises
    ------
    ConfigError
        If a label is not the corpus's.
    """
    before = Counter(utterance.emotion for utterance in found.utterances)
    if is_strict:
        _refuse_unknown(labels, before, f"`labels:` of corpus {name!r}", "label")
    if not set(labels) & set(before):
        return found
    renamed = tuple(replace(u, emotion=labels.get(u.emotion, u.emotion)) for u in found.utterances)
    return replace(found, utterances=renamed, labels_before=dict(sorted(before.items())))


def unite(found: Scan, speakers: Mapping[str, str], *, name: str) -> Scan:
    """Give utterances the speakers that a config names for theirs.

    Raises
    ------
    ConfigError
        If a speaker is not the corpus's.
    CorpusError
        If speakers of two sexes become one.
    """
    counts = Counter(utterance.speaker for utterance in found.utterances)
    _refuse_unknown(speakers, counts, f"`speakers:` of corpus {name!r}", "speaker")
    united = tuple(replace(u, speaker=speakers.get(u.speaker, u.speaker)) for u in found.utterances)
    sexes = defaultdict(set)
    for utterance in united:
        sexes[utterance.speaker].add(utterance.sex)
    both = [speaker for speaker in dict.fromkeys(speakers.values()) if {"female", "male"} <= sexes[speaker]]
    if both:
        raise CorpusError(
            f"`speakers:` of corpus {name!r} makes one of speakers of both sexes: {', '.join(map(repr, both))}. "
            "Correct it, or the sexes."
        )
    return replace(found, utterances=united)


def _refuse_unknown(given: Mapping[str, str], known: Mapping[str, int], where: str, what: str) -> None:
    unknown = [f"{key!r} is no {what} of it.{did_you_mean(key, list(known))}" for key in given if key not in known]
    if unknown:
        raise ConfigError(f"{where} names what the corpus has not:\n{listing(unknown)}\nCorrect the config.")


def refuse_look_alikes(found: Scan, *, name: str, emotions: Sequence[str] = (), distinct: bool = False) -> None:
    """Refuse labels and speakers in two spellings.

    Parameters
    ----------
    emotions : sequence of str
        Those that the config declares: a label that looks like one of them is a row that would be lost.
    distinct : bool
        Whether speakers that look alike are different people.

    Raises
    ------
    CorpusError
        With both spellings, where they stand, and what to write into the config.
    """
    by_emotion, by_speaker = defaultdict(list), defaultdict(list)
    for utterance in found.utterances:
        by_emotion[utterance.emotion].append(utterance)
        by_speaker[utterance.speaker].append(utterance)
    problems = []
    if pairs := look_alikes([*by_emotion, *emotions]):
        rename = _mapping(pairs, by_emotion, preferred=[*emotions, *COMMON])
        problems.append(
            f"Corpus {name!r} has labels that look alike:\n{_shown(pairs, by_emotion)}\n"
            f"If they mean the same, unite them with `labels: {rename}` below the corpus in the config. If not, "
            "rename one of them there."
        )
    if not distinct and (pairs := look_alikes(by_speaker)):
        rename = _mapping(pairs, by_speaker)
        problems.append(
            f"Corpus {name!r} has speakers whose names look alike. If they are one person, training and test would "
            f"share that voice:\n{_shown(pairs, by_speaker)}\nUnite them with `speakers: {rename}` below the corpus in "
            "the config, or set `distinct: true` there if they are different people."
        )
    if problems:
        raise CorpusError("\n".join(problems))


def _shown(pairs: Sequence[tuple[str, str]], found: Mapping[str, Sequence[Utterance]]) -> str:
    return listing([f"{_place(a, found)} and {_place(b, found)}" for a, b in pairs])


def _place(name: str, found: Mapping[str, Sequence[Utterance]]) -> str:
    """Return a name with the number of its recordings and where it stands: lines of a list, or a recording."""
    utterances = found.get(name, ())
    if not utterances:
        return f"{name!r} (in `emotions:` of the config)"
    count = f"{len(utterances)} recording{'s' * (len(utterances) != 1)}"
    lines = sorted(utterance.line for utterance in utterances if utterance.line is not None)
    if not lines:
        return f"{name!r} ({count}, such as {utterances[0].path})"
    more = ", …" if len(lines) > MAX_LINES else ""
    return f"{name!r} ({count}, line{'s' * (len(lines) != 1)} {', '.join(map(str, lines[:MAX_LINES]))}{more})"


def _mapping(
    pairs: Sequence[tuple[str, str]], found: Mapping[str, Sequence[Utterance]], preferred: Sequence[str] = ()
) -> str:
    """Return the YAML that unites names: under the preferred one, else the most frequent one, of each group."""
    groups = defaultdict(list)
    for first, other in pairs:
        groups[first].append(other)
    renamed: dict[str, str] = {}
    for first, others in groups.items():
        names = [first, *others]
        best = next(
            (name for name in preferred if name in names), max(names, key=lambda name: len(found.get(name, ())))
        )
        renamed |= {name: best for name in names if name != best and name in found}
    return "{" + ", ".join(f"{_quoted(name)}: {_quoted(best)}" for name, best in renamed.items()) + "}"


def _quoted(name: str) -> str:
    """Return a name as YAML reads it as text, with what cannot be seen written out."""
    return json.dumps(name, ensure_ascii=not name.isprintable())
