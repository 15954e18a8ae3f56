"""Corpora whose file names say everything: one regular expression and one function a corpus."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from emobench.corpora import Scan, Utterance
from emobench.corpora.scanning import AUDIO, find_files
from emobench.errors import CorpusError, listing

COPIES = "other copies of a recording"


def scan_names(
    root: Path,
    *,
    title: str,
    called: str,
    pattern: str,
    describe: Callable[..., tuple[str, dict[str, str]]],
    complete: Callable[[Sequence[Utterance]], Iterable[str]] = lambda _: (),
    defects: Mapping[str, Mapping[str, str]] | None = None,
    n_of: Mapping[str, Mapping[str, int]] | None = None,
) -> Scan:
    """Read the labels of a corpus from the names of its files; no file is opened.

    The corpus may lie at any depth below `root`, beside others, which are passed over. Where a recording is there
    several times (an archive that holds a folder twice, MP3 beside WAV), one file is read: the lossless one, else the
    one that lies highest.

    Parameters
    ----------
    title, called : str
        The corpus, and how its files are called; for messages.
    pattern : str
        Regular expression that matches the whole name of a recording without its suffix, in any case.
    describe : callable
        ``describe(folder, **groups) -> (name, fields)``: from the folder's name and the groups of `pattern` to the
        recording's official name without a suffix and the fields of its `Utterance`. May raise `CorpusError`.
    complete : callable, optional
        From the utterances to the official names that a complete copy has.
    defects : mapping, optional
        What each rule of `exclude:` leaves out: rule → official name → reason.
    n_of : mapping, optional
        How many recordings a complete copy has of each value of a field, where its names are not known one by one:
        ``{"speaker": {"03": 49, …}}``.

    Raises
    ------
    CorpusError
        If there is no recording, or with every recording beside them whose name breaks the pattern.
    """
    files, ignored = find_files(root)
    called_so = re.compile(pattern, re.IGNORECASE)
    found, faults = _read(files, called_so, describe)
    if not found:
        raise CorpusError(
            f"A {title} folder must hold recordings called {called}. None of {len(files)} in {os.path.abspath(root)} "
            f"is.{_first(faults)} Correct the root."
        )
    home = os.path.commonpath([os.path.dirname(path) for path, _, _ in found])
    strange = [path for path in faults if _is_below(path, home)]
    if strange:
        raise CorpusError(
            f"{title} recordings must be called {called}. {len(strange)} in {os.path.abspath(Path(root) / home)} are "
            f"not:\n{listing([f'{path!r}: {faults[path]}' for path in strange])}\nRename, move or remove them."
        )
    chosen = _one_each(found)
    utterances = tuple(sorted((u for _, u in chosen.values()), key=lambda utterance: utterance.path))
    n_copies = len(found) - len(chosen)
    return Scan(
        utterances=utterances,
        ignored=tuple(path for path in ignored if _is_below(path, home)),
        left_out={COPIES: n_copies} if n_copies else {},
        missing=tuple(name for name in complete(utterances) if name.casefold() not in chosen),
        defects={
            rule: {chosen[name.casefold()][0]: why for name, why in names.items() if name.casefold() in chosen}
            for rule, names in (defects or {}).items()
        },
        remarks=tuple(_miscounts(utterances, n_of or {})),
    )


def _miscounts(utterances: Sequence[Utterance], n_of: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield a remark on each field of whose values there are more or fewer recordings than in a complete copy."""
    for field, expected in n_of.items():
        counts = Counter(getattr(utterance, field) for utterance in utterances)
        wrong = [f"{value} {counts[value]} of {n}" for value, n in expected.items() if counts[value] != n]
        if wrong:
            yield f"not the recordings of a complete copy, by {field}: {', '.join(wrong)}"


def _read(
    files: Sequence[str], called_so: re.Pattern[str], describe: Callable[..., tuple[str, dict[str, str]]]
) -> tuple[list[tuple[str, str, dict[str, str]]], dict[str, str]]:
    """Return (path, official name, fields) of each recording, and why each other file is none."""
    found, faults = [], {}
    for path in files:
        folder, stem = os.path.basename(os.path.dirname(path)), PurePosixPath(path).stem
        match = called_so.fullmatch(stem)
        if match is None:
            faults[path] = "another name"
            continue
        try:
            found.append((path, *describe(folder, **match.groupdict())))
        except CorpusError as error:
            faults[path] = str(error)
    return found, faults


def _one_each(found: Sequence[tuple[str, str, dict[str, Any]]]) -> dict[str, tuple[str, Utterance]]:
    """Return the file to read of each recording and its utterance, by the official name in lower case."""

    def rank(item: tuple[str, Any, Any]) -> tuple[int, int, str]:
        path = PurePosixPath(item[0])
        return AUDIO.index(path.suffix.lower()), len(path.parts), item[0]

    chosen: dict[str, tuple[str, Utterance]] = {}
    for path, name, fields in sorted(found, key=rank):
        chosen.setdefault(name.casefold(), (path, Utterance(path=path, corpus="", **fields)))
    return chosen


def _is_below(path: str, home: str) -> bool:
    return not home or PurePosixPath(path).is_relative_to(home)


def _first(faults: Mapping[str, str]) -> str:
    told = [f" {path!r}: {why}." for path, why in faults.items() if why != "another name"]
    return told[0] if told else ""


def coded(text: str) -> dict[str, str]:
    """Return the meaning of each code of ``"a: angry | d: disgust"``."""
    return dict(part.strip().split(": ", 1) for part in text.split("|"))


def combine(*parts: Iterable[str]) -> list[str]:
    """Return official names: every part with every other, joined by underscores."""
    return ["_".join(values) for values in product(*parts)]
