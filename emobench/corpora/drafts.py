"""Manifests made from what others have: names of files, tables of audformat, EmoBox's lists."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from emobench.corpora.labels import COMMON
from emobench.corpora.manifest import OPTIONAL, SEXES
from emobench.corpora.scanning import AUDIO, find_files
from emobench.errors import ConfigError, CorpusError, StorageError, listing

COLUMNS = ("path", "speaker", "emotion", *OPTIONAL)
# How corpora call the emotions that have a common name.
ALSO_CALLED = {
    "angry": ("anger", "ang", "wut", "rabbia"),
    "boredom": ("bored", "boredem", "langeweile"),
    "calm": ("calmness",),
    "disgust": ("disgusted", "dis", "ekel"),
    "fearful": ("fear", "fea", "anxiety", "angst", "paura"),
    "happy": ("happiness", "hap", "joy", "freude", "gioia"),
    "neutral": ("neu", "neutrality"),
    "sad": ("sadness", "trauer", "tristezza"),
    "surprised": ("surprise", "sur", "sorpresa"),
}
COMMON_NAME = {word: name for name in COMMON for word in (name, *ALSO_CALLED[name])}


@dataclass(frozen=True)
class Draft:
    """The rows of a manifest, and what the person should know of how they came about.

    Attributes
    ----------
    rows : tuple of dict
        Columns of a manifest; those that are empty everywhere are not written.
    remarks : tuple of str
    """

    rows: tuple[dict[str, str], ...]
    remarks: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns that any row fills, in the order of a manifest; others behind them."""
        found = {name for row in self.rows for name, value in row.items() if value}
        return [*(name for name in COLUMNS if name in found), *sorted(found - set(COLUMNS))]

    def text(self) -> str:
        """Return the CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


def from_names(root: Path, pattern: str, *, labels: Mapping[str, str] | None = None) -> Draft:
    """Read the labels of recordings from their names.

    Parameters
    ----------
    root : Path
        Folder of the recordings; paths are relative to it.
    pattern : str
        Regular expression with a group ``emotion`` and, where the names tell them, ``speaker, sex, statement,
        intensity, repetition``. It must match a whole path below `root`, or a whole name, with or without the suffix.
    labels : mapping, optional
        What the group ``emotion`` says → label. Others become the common name, where there is one.

    Raises
    ------
    ConfigError
        If the pattern cannot be used.
    CorpusError
        If no recording matches it.
    """
    expression = _compiled(pattern, needs="emotion")
    files, _ = find_files(root)
    rows, strange = [], []
    for path in files:
        groups = _groups(expression, path)
        rows += [] if groups is None else [{"path": path, **groups}]
        strange += [path] if groups is None else []
    if not rows:
        raise CorpusError(
            f"No recording matches {pattern!r}. {os.path.abspath(root)} has {len(files)}, such as "
            f"{', '.join(map(repr, files[:3])) or 'none'}. Correct the pattern."
        )
    passed_over = f"{len(strange)} recordings do not match and are left out: {_some(strange)}"
    return _finished(rows, labels, [passed_over] if strange else [])


def from_emobox(
    files: Sequence[Path], root: Path, *, pattern: str = "", labels: Mapping[str, str] | None = None
) -> Draft:
    """Read EmoBox's lists of recordings: one JSON object a line, with ``wav``, ``emo`` and perhaps ``speaker``.

    Parameters
    ----------
    root : Path
        Folder of the recordings: a path of a list may begin anywhere above it.
    pattern : str
        As in `from_names`, for what the lists do not tell, such as the speaker; no group is required.
    """
    expression = _compiled(pattern) if pattern else None
    rows = []
    for file in files:
        for line, text in enumerate(_read(file).splitlines(), start=1):
            if text.strip():
                rows.append(_of_emobox(text, f"{file}, line {line}", expression))
    return _finished(_located(rows, root), labels, [])


def from_audformat(tables: Sequence[Path], root: Path, *, labels: Mapping[str, str] | None = None) -> Draft:
    """Read tables of an audformat database, CSV or Parquet, joined by their column ``file``.

    Sexes come from a column ``gender`` or ``sex``, or from the speakers in ``db.yaml`` below `root`. A column ``split``
    is kept. A table of segments is refused.
    """
    rows: dict[str, dict[str, str]] = {}
    for table in tables:
        for record in _records(table):
            _refuse_segment(record, table)
            row = rows.setdefault(record["file"], {"path": record["file"]})
            row |= {name: record[column] for column, name in _AUDFORMAT.items() if record.get(column)}
    sexes = _sexes(root / "db.yaml")
    drafted = [{**row, "sex": row.get("sex") or sexes.get(row.get("speaker", ""), "")} for row in rows.values()]
    lacking = [row["path"] for row in drafted if not row.get("emotion")]
    remarks = [f"{len(lacking)} recordings without an emotion are left out: {_some(lacking)}"] if lacking else []
    if any(row.get("split") for row in drafted):
        remarks.append("column 'split' is kept, and passed over by runs")
    return _finished(_located([row for row in drafted if row.get("emotion")], root), labels, remarks)


_AUDFORMAT = {"emotion": "emotion", "speaker": "speaker", "gender": "sex", "sex": "sex", "split": "split"}


def _finished(rows: Sequence[Mapping[str, str]], labels: Mapping[str, str] | None, remarks: Iterable[str]) -> Draft:
    """Return the draft with sexes and labels as emobench has them, in the order of the paths."""
    labels = labels or {}
    renamed: Counter[tuple[str, str]] = Counter()
    finished = []
    for row in sorted(rows, key=lambda row: row["path"]):
        emotion = labels.get(row["emotion"], COMMON_NAME.get(row["emotion"].casefold(), row["emotion"]))
        renamed[row["emotion"], emotion] += 1
        finished.append({**row, "emotion": emotion, "sex": SEXES.get(row.get("sex", "").casefold(), "")})
    changed = [f"{old} → {new} ({count})" for (old, new), count in sorted(renamed.items()) if old != new]
    unused = sorted(set(labels) - {old for old, _ in renamed})
    return Draft(
        tuple(finished),
        (
            *remarks,
            *([f"labels renamed: {', '.join(changed)}"] if changed else []),
            *([f"no recording has the label {', '.join(unused)}"] if unused else []),
            *([] if any(row.get("speaker") for row in finished) else ["speakers are unknown"]),
        ),
    )


def _compiled(pattern: str, needs: str = "") -> re.Pattern[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"The pattern {pattern!r} is no regular expression: {error}. Correct it.") from None
    known = set(COLUMNS) - {"path"}
    strange = sorted(set(expression.groupindex) - known)
    if strange or (needs and needs not in expression.groupindex):
        said = f"It has the group {strange[0]!r}." if strange else f"It has no group (?P<{needs}>…)."
        raise ConfigError(f"The pattern {pattern!r} may name the groups {', '.join(sorted(known))}. {said} Correct it.")
    return expression


def _groups(expression: re.Pattern[str], path: str) -> dict[str, str] | None:
    """Return the groups of a pattern in a path or name, with or without the suffix; None where it does not match."""
    pure = PurePosixPath(path)
    for text in (path, str(pure.with_suffix("")), pure.name, pure.stem):
        if match := expression.fullmatch(text):
            return {name: value or "" for name, value in match.groupdict().items()}
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror}. Correct the path.") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file} is not in UTF-8: {error.reason}. Save it so.") from error


def _of_emobox(text: str, place: str, expression: re.Pattern[str] | None) -> dict[str, str]:
    try:
        record = json.loads(text)
        row = {"path": record["wav"], "emotion": record["emo"], "speaker": str(record.get("speaker", ""))}
        path = PurePosixPath(row["path"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorpusError(
            f"{place}: not a line of EmoBox's lists, a JSON object with `wav` and `emo`. Correct it."
        ) from None
    groups = _groups(expression, path.as_posix()) if expression else {}
    if groups is None:
        raise CorpusError(f"{place}: {row['path']!r} does not match the pattern. Correct the pattern.")
    return {**row, **groups}


def _located(rows: Sequence[dict[str, str]], root: Path) -> list[dict[str, str]]:
    """Return the rows with paths that exist below `root`, whatever folders they begin with; refuse others."""
    located, absent = [], []
    for row in rows:
        parts = PurePosixPath(row["path"]).parts
        below = (PurePosixPath(*parts[start:]) for start in range(len(parts)))
        path = next((path for path in below if ".." not in path.parts and (root / path).is_file()), None)
        absent += [row["path"]] if path is None else []
        located += [] if path is None else [{**row, "path": path.as_posix()}]
    if absent:
        raise CorpusError(
            f"{len(absent)} of {len(rows)} recordings are not below {os.path.abspath(root)}:\n{listing(absent)}\n"
            "Name their folder with --root."
        )
    return located


def _records(table: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV or Parquet table as text; what is missing is empty."""
    if table.suffix == ".parquet":
        import pandas as pd

        try:
            frame = pd.read_parquet(table).reset_index()
        except (OSError, ValueError) as error:
            raise CorpusError(f"{table} cannot be read as Parquet: {error}. Correct the path.") from error
        records = frame.astype(object).where(frame.notna(), "").astype(str).to_dict("records")
    else:
        records = list(csv.DictReader(io.StringIO(_read(table), newline="")))
    if not records or "file" not in records[0]:
        raise CorpusError(f"{table} is no table of audformat: it has no rows with a column 'file'. Name another.")
    return [{str(name): value or "" for name, value in record.items()} for record in records]


def _refuse_segment(record: Mapping[str, str], table: Path) -> None:
    start, end = record.get("start", ""), record.get("end", "")
    if start.removeprefix("0 days ").strip("0:.") or end not in ("", "NaT"):
        raise CorpusError(
            f"{table} names segments of recordings ({record['file']}, {start}–{end}), and emobench reads whole ones. "
            "Cut them into files of their own."
        )


def _sexes(header: Path) -> dict[str, str]:
    """Return the sexes of the speakers in an audformat header; nothing where it does not tell."""
    if not header.is_file():
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content: Any = YAML(typ="safe", pure=True).load(_read(header))
        speakers = content["schemes"]["speaker"]["labels"]
        told = {str(name): about.get("gender", about.get("sex", "")) for name, about in speakers.items()}
    except (YAMLError, KeyError, TypeError, AttributeError):
        return {}
    return {name: str(sex) for name, sex in told.items()}


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (" …" if len(paths) > 3 else "")


# --- what names tell by themselves ------------------------------------------------------------------------------------

_SPEAKER = re.compile(r"(?:speaker|spkr?|actor|subject|subj|person|participant|p|s)[ _-]?\d+", re.IGNORECASE)
_TOKENS = re.compile(r"[^\W\d_]+")


def guess(root: Path) -> Draft | None:
    """Read emotion and speaker from the names of folders and files, where every one of them tells the emotion.

    An emotion is a word of `COMMON_NAME` that stands in the same place of every path, a speaker a word such as
    ``speaker-03`` or ``s3`` that does. Where no such word stands in every path, speakers are unknown.

    Returns
    -------
    draft : Draft or None
        None where not every path has an emotion, or fewer than two emotions are there.
    """
    files, _ = find_files(root, AUDIO)
    if not files:
        return None
    emotions = _same_place(files, lambda part: [word for word in _TOKENS.findall(part) if _emotion(word)])
    if emotions is None or len({_emotion(word) for word in emotions}) < 2:
        return None
    speakers = _same_place(files, lambda part: [found[0] for found in _SPEAKER.finditer(part)][:1])
    rows = [{"path": path, "emotion": word} for path, word in zip(files, emotions, strict=True)]
    if speakers is not None:
        rows = [{**row, "speaker": name} for row, name in zip(rows, speakers, strict=True)]
    return _finished(rows, None, [])


def _emotion(word: str) -> str:
    return COMMON_NAME.get(word.casefold(), "")


def _same_place(files: Sequence[str], words_in: Any) -> list[str] | None:
    """Return the one word that each path has in the same part of it: its name, the folder above, and so on."""
    parts = [list(reversed(PurePosixPath(path).with_suffix("").parts)) for path in files]
    for level in range(min(map(len, parts))):
        found = [words_in(part[level]) for part in parts]
        if all(len(words) == 1 for words in found):
            return [words[0] for words in found]
    return None


def pairs(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (code, label) of texts such as ``gio=happy``.

    Raises
    ------
    ConfigError
        Of one that is not of this form.
    """
    for text in texts:
        code, equals, label = text.partition("=")
        if not (code and equals and label):
            raise ConfigError(f"A label is given as CODE=EMOTION, such as gio=happy. Got {text!r}. Correct it.")
        yield code, label
