"""What every scanner does alike: which files are recordings, which are junk, and whether a scan can be used."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PureWindowsPath

from emobench.corpora import CorpusSpec, Scan, Utterance
from emobench.errors import ConfigError, CorpusError, StorageError, did_you_mean, listing

AUDIO = (".wav", ".flac", ".ogg", ".mp3")

# What operating systems and file servers leave behind, besides every name that begins with a dot (``._x.wav`` is
# macOS's shadow of ``x.wav``).
JUNK = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
SEXES = ("female", "male", "")


def find_files(root: str | os.PathLike[str], suffixes: Iterable[str] = AUDIO) -> tuple[list[str], list[str]]:
    """Return the recordings below a folder, and everything else that lies there.

    Links to folders are followed: people keep audio on another disk.

    Parameters
    ----------
    root : path
    suffixes : iterable of str
        What the name of a recording ends with, in any case.

    Returns
    -------
    files, ignored : list of str
        Sorted paths relative to `root`, with forward slashes. A folder of junk ends with a slash; what is in it is
        not listed.

    Raises
    ------
    CorpusError
        If `root` is no folder.
    StorageError
        If a folder cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        state = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise CorpusError(f"The folder of a corpus {state}: {os.path.abspath(root)}. Correct `root:`.")
    endings = tuple(suffix.lower() for suffix in suffixes)
    files: list[str] = []
    ignored: list[str] = []
    for path, is_folder in _walk(root, "", {os.path.realpath(root)}):
        is_recording = not is_folder and not is_junk(path) and path.lower().endswith(endings)
        (files if is_recording else ignored).append(path)
    return sorted(files), sorted(ignored)


def _walk(root: Path, folder: str, seen: set[str]) -> Iterator[tuple[str, bool]]:
    """Yield the path of each file, and of each folder of junk; a folder that a link leads to again is passed over."""
    for name in names_in(root / folder):
        path = f"{folder}{name}"
        if not (root / path).is_dir():
            yield path, False
        elif is_junk(name):
            yield f"{path}/", True
        elif (real := os.path.realpath(root / path)) not in seen:
            seen.add(real)
            yield from _walk(root, f"{path}/", seen)


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in a folder; raise `StorageError` where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise StorageError(
            f"A corpus folder must be readable. {os.path.abspath(folder)}: {error.strerror}. Correct its permissions."
        ) from error


def is_junk(path: str) -> bool:
    """Return whether an operating system left a file or folder behind."""
    name = path.rstrip("/").rpartition("/")[2]
    return name.startswith(".") or name.lower() in JUNK


def path_problem(path: str, root: Path) -> str:
    """Return why a path cannot name a recording of a corpus, or nothing."""
    as_windows = PureWindowsPath(path)  # so that ..\x and C:\x are refused everywhere
    if as_windows.anchor or ".." in as_windows.parts:
        return "must be relative to the root and without '..'"
    try:
        os.stat(root / path)
    except OSError as error:
        slash = "; use forward slashes" if "\\" in path else ""
        return f"cannot be found: {error.strerror}{slash}"
    except UnicodeEncodeError:
        return "cannot be a file name on this machine"
    return ""


def check_scan(found: Scan, row: CorpusSpec, root: Path | None, name: str, *, labels: Collection[str] = ()) -> Scan:
    """Return what a scanner found in one order and under the name that results have, or refuse it.

    Parameters
    ----------
    root : path or None
        None where the corpus is only planned, so that no file is looked for.
    name : str
        What result rows call the corpus.
    labels : collection of str
        Emotions beyond those of the row that a config has a name for.

    Raises
    ------
    CorpusError
        With every utterance that has no file, speaker or emotion, or another one's path; and with every emotion that
        neither the row nor the config knows. Where no utterance has a speaker, speakers are unknown.
    """
    if not isinstance(found, Scan):
        raise CorpusError(
            f"The scanner of corpus {row.name!r} must return a Scan. It returned {type(found).__name__}. Correct it."
        )
    problems: list[str] = []
    seen: set[str] = set()
    required = ("speaker", "emotion") if any(utterance.speaker for utterance in found.utterances) else ("emotion",)
    for utterance in found.utterances:
        problems += [f"{utterance.path!r}: {fault}" for fault in _faults(utterance, row, root, seen, required)]
        seen.add(utterance.path)
    problems += _unknown_labels(found.utterances, row, labels)
    if problems:
        raise CorpusError(
            f"Corpus {name!r} has {len(problems)} fault{'s' * (len(problems) != 1)}:\n{listing(problems)}\n"
            "Correct its files, or its scanner."
        )
    if not found.utterances:
        raise CorpusError(f"Corpus {name!r} has no recordings in {root}. Correct `root:`, or its scanner.")
    ordered = sorted(found.utterances, key=lambda utterance: utterance.path)
    remarks = (*found.remarks, *_twins(utterance.path for utterance in ordered))
    return replace(found, utterances=tuple(replace(utterance, corpus=name) for utterance in ordered), remarks=remarks)


def _unknown_labels(utterances: Iterable[Utterance], row: CorpusSpec, labels: Collection[str]) -> list[str]:
    if not row.emotions:
        return []
    counts = Counter(utterance.emotion for utterance in utterances if utterance.emotion)
    return [
        f"{count} recordings have the label {label!r}, which is none of {', '.join(row.emotions)}; `labels:` in the "
        "config can name it"
        for label, count in sorted(counts.items())
        if label not in row.emotions and label not in labels
    ]


def _twins(paths: Iterable[str]) -> list[str]:
    """Return a remark on recordings that some file systems and editors take for one, if there are any."""
    groups = defaultdict(list)
    for path in paths:
        groups[_composed(path).casefold()].append(path)
    twins = [group for group in groups.values() if len(group) > 1]
    if not twins:
        return []
    some = "; ".join(" and ".join(map(ascii, group)) for group in twins[:3]) + (" …" if len(twins) > 3 else "")
    return [f"names that differ only in case or in how accents are encoded, kept as different recordings: {some}"]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def find_spelling(root: Path, path: str, listed: dict[Path, list[str]] | None = None) -> str:
    """Return a path as the file system spells it, where only its Unicode normalisation is another; else as it is.

    macOS and archives made there decompose accents, editors compose them, and Linux takes both for different names.

    Parameters
    ----------
    listed : dict, optional
        Remembers folders that were listed, for the next path.
    """
    if PureWindowsPath(path).anchor or os.path.lexists(root / path):
        return path
    listed = {} if listed is None else listed
    found = ""
    for part in path.split("/"):
        here = root / found
        if not os.path.lexists(here / part):
            if here not in listed:
                try:
                    listed[here] = os.listdir(here)
                except (OSError, ValueError):  # ValueError: a NUL in it
                    return path
            same = [name for name in listed[here] if _composed(name) == _composed(part)]
            if len(same) != 1:
                return path
            part = same[0]
        found = f"{found}/{part}" if found else part
    return found


def leave_out(found: Scan, paths: Mapping[str, str], *, name: str, is_strict: bool = True) -> Scan:
    """Leave out recordings by their paths.

    Parameters
    ----------
    paths : mapping of str to str
        Path, as results show it or without the corpus's name before it → reason.
    is_strict : bool
        Whether each must be there.

    Raises
    ------
    ConfigError
        If one is not.
    """
    reasons = {_composed(path.removeprefix("./")): reason for path, reason in paths.items()}
    by_path = {_composed(utterance.path): utterance.path for utterance in found.utterances}
    for path in [path for path in reasons if path not in by_path and path.startswith(f"{name}/")]:
        reasons.setdefault(path.removeprefix(f"{name}/"), reasons.pop(path))
    unknown = [f"{path!r}{did_you_mean(path, list(by_path))}" for path in reasons if path not in by_path]
    if unknown and is_strict:
        raise ConfigError(
            f"`exclude:` of corpus {name!r} names recordings that it has not:\n{listing(unknown)}\nCorrect the config."
        )
    dropped = tuple((by_path[path], reason) for path, reason in sorted(reasons.items()) if path in by_path)
    gone = {path for path, _ in dropped}
    kept = tuple(utterance for utterance in found.utterances if utterance.path not in gone)
    return replace(found, utterances=kept, dropped=(*found.dropped, *dropped))


def _faults(
    utterance: Utterance, row: CorpusSpec, root: Path | None, seen: set[str], required: tuple[str, ...]
) -> Iterator[str]:
    if utterance.path in seen:
        yield "is listed twice"
    elif root is not None and (problem := path_problem(utterance.path, root)):
        yield problem
    for part in required:
        if not getattr(utterance, part):
            yield f"has no {part}"
    if utterance.sex not in SEXES:
        yield f"its sex is {utterance.sex!r}, not female, male or empty"
