"""A corpus of one's own: a CSV that names each recording, its speaker and its emotion."""

from __future__ import annotations

import csv
import io
import ntpath
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from emobench.corpora import Scan, Utterance
from emobench.corpora.scanning import find_spelling, path_problem
from emobench.errors import CorpusError, StorageError, did_you_mean, listing

if TYPE_CHECKING:
    from _csv import Reader

REQUIRED = ("path", "speaker", "emotion")
OPTIONAL = ("sex", "statement", "intensity", "repetition", "text")
DIMENSIONS = ("valence", "arousal", "activation", "dominance")
ALSO_CALLED = {  # by other programs, in any case, with spaces or hyphens for underscores
    "path": (
        *("file", "filename", "file_name", "filepath", "file_path", "wav", "wav_path", "wav_file"),
        *("audio", "audio_path", "audio_file", "audio_filepath", "recording"),
    ),
    "speaker": ("speaker_id", "speakerid", "spk", "spk_id", "subject", "subject_id", "actor", "actor_id"),
    "emotion": ("label", "class", "emo", "emotion_label", "category"),
    "sex": ("gender",),
}
NOT_AVAILABLE = {"", "-", "#n/a", "<na>", "n/a", "na", "nan", "none", "null"}
SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}


@dataclass(frozen=True)
class Row:
    """A row of the CSV and the line it starts on."""

    line: int
    cells: dict[str, str]


def scan(root: Path | None = None, *, path: Path) -> Scan:
    """Read a manifest and check that every recording it names is there, once, and below `root`.

    Parameters
    ----------
    root : Path, optional
        Folder that the paths in the CSV are relative to; by default the CSV's own.
    path : Path
        CSV in UTF-8, separated by commas. Its header names ``path, speaker, emotion`` and, if known, ``sex, statement,
        intensity, repetition, text``; a column called as in `ALSO_CALLED` is understood where the usual one is absent,
        and others are passed over. Without the column ``speaker``, speakers are unknown. A required cell spelled like
        a missing value is an error, so that a speaker called ``NA`` cannot become nobody; an optional one is empty.

    Raises
    ------
    CorpusError
        With every row that cannot be used, by line.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    if not os.path.isdir(root):
        raise CorpusError(
            f"The root of a manifest must be a folder. {os.path.abspath(root)} is none. Correct the root."
        )
    rows, problems, remarks = read_rows(read_text(path), source=os.path.abspath(path))
    refuse_absolute(rows, os.path.abspath(path))
    listed: dict[Path, list[str]] = {}
    utterances = []
    lines: dict[str, int] = {}  # by the file that a path leads to
    sexes: dict[str, tuple[str, int]] = {}  # by speaker
    for row in rows:
        row.cells["path"] = find_spelling(root, row.cells["path"], listed)
        faults = faults_in(row, root)
        if not faults:
            utterance = describe(row)
            first = lines.setdefault(os.path.realpath(root / utterance.path), row.line)
            sex, line = sexes.setdefault(utterance.speaker, (utterance.sex, row.line))
            if first != row.line:
                faults.append(f"path {utterance.path!r} is the same file as on line {first}")
            if utterance.speaker and sex != utterance.sex:
                faults.append(f"speaker {utterance.speaker!r} has sex {utterance.sex!r}, but {sex!r} on line {line}")
            utterances.append(utterance)
        problems += [(row.line, fault) for fault in faults]
    if problems:
        by_line = [f"line {line}: {fault}" for line, fault in sorted(problems)]
        raise CorpusError(
            f"Each row of a manifest must name one file below {os.path.abspath(root)}, its speaker and its emotion. "
            f"{os.path.abspath(path)} has {len(problems)} fault{'s' * (len(problems) != 1)}:\n"
            f"{listing(by_line)}\nCorrect the CSV."
        )
    if not utterances:
        raise CorpusError(f"A manifest must name recordings. {os.path.abspath(path)} has a header only. Add rows.")
    return Scan(utterances=tuple(sorted(utterances, key=lambda utterance: utterance.path)), remarks=tuple(remarks))


def read_text(path: Path) -> str:
    """Return the text of a CSV in UTF-8, with or without a byte order mark."""
    place = os.path.abspath(path)
    if not os.path.isfile(path):
        raise CorpusError(f"A manifest must be a CSV file. {place} is none. Correct `path`.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"A manifest must be readable. {place}: {error.strerror}. Correct its permissions."
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"A manifest must be in UTF-8. {place} is not, on line {line}: {error.reason}. Save it as CSV UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CorpusError(f"A manifest must be text. {place} has a NUL byte on line {line}. Save it as CSV UTF-8.")
    return text


def read_rows(text: str, *, source: str) -> tuple[list[Row], list[tuple[int, str]], list[str]]:
    """Return the rows that are as long as the header, (line, fault) of those that are not, and remarks on columns."""
    records = numbered(csv.reader(io.StringIO(text, newline=""), strict=True))
    rows, faults = [], []
    header: list[str] = []
    remarks: list[str] = []
    try:
        for line, cells in records:
            if not header:
                header, remarks = understand([cell.strip() for cell in cells], source)
                header = check_header(header, source)
                remarks += _passed_over(header)
            elif len(cells) == len(header):
                rows.append(Row(line, dict(zip(header, cells, strict=True))))
            else:
                faults.append((line, f"{len(cells)} cells, but the header has {len(header)} columns"))
    except csv.Error as error:
        line = rows[-1].line if rows else 1
        raise CorpusError(
            f"A manifest must be a CSV whose quotes match. {source}, after line {line}: {error}. "
            f"Put names with commas, quotes or line breaks into double quotes, and double those inside."
        ) from error
    if not header:
        raise CorpusError(f"A manifest must begin with the columns {', '.join(REQUIRED)}. {source} is empty.")
    return rows, faults, remarks


def numbered(reader: Reader) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not blank with the line it starts on; a quoted cell may span lines."""
    line = 1
    for cells in reader:
        if cells:
            yield line, cells
        line = reader.line_num + 1


def understand(header: list[str], source: str) -> tuple[list[str], list[str]]:
    """Return the header with the usual name for a column that has another one, and a remark on each."""
    remarks = []
    for column in (*REQUIRED, *OPTIONAL):
        others = (column, *ALSO_CALLED.get(column, ()))
        found = [name for name in header if name.casefold().replace(" ", "_").replace("-", "_") in others]
        if column in header or not found:
            continue
        if len(found) > 1:
            raise CorpusError(
                f"Columns {' and '.join(map(repr, found))} of {source} could both be {column!r}. Rename one so."
            )
        header = [column if name == found[0] else name for name in header]
        remarks.append(f"column {found[0]!r} is read as {column!r}")
    return header, remarks


def check_header(header: list[str], source: str) -> list[str]:
    """Return the header if it has the required columns, and no known column twice."""
    absent = [column for column in REQUIRED if column not in header]
    if absent == ["speaker"] and len(header) > 1 and not did_you_mean("speaker", header):
        absent = []
    twice = [column for column in (*REQUIRED, *OPTIONAL) if header.count(column) > 1]
    if not absent and not twice:
        return header
    separator = " Separate the columns by commas." if len(header) == 1 and {";", "\t", "|"} & set(header[0]) else ""
    found = ", ".join(map(repr, header))
    faults = [f"Column {column!r} is missing.{did_you_mean(column, header)}" for column in absent]
    faults += [f"Column {column!r} is there twice." for column in twice]
    raise CorpusError(
        f"A manifest must have the columns {', '.join(REQUIRED)}, each once. {' '.join(faults)} The header of "
        f"{source} is {found}.{separator or ' Rename the columns.'}"
    )


def refuse_absolute(rows: Sequence[Row], source: str) -> None:
    """Refuse absolute paths, of this system or of Windows, in one sentence: a list made elsewhere has no others.

    Raises
    ------
    CorpusError
        With their number, the first of them, and the `root:` that they suggest.
    """
    absolute = [row for row in rows if PureWindowsPath(row.cells["path"]).anchor]
    if not absolute:
        return
    paths = [row.cells["path"] for row in absolute]
    system = os.path if paths[0].startswith("/") else ntpath
    try:
        common = system.commonpath([system.dirname(path) for path in paths])
    except ValueError:  # some of each kind, or on two drives
        common = "FOLDER"
    raise CorpusError(
        f"{len(absolute)} of {len(rows)} paths in {source} are absolute, such as {paths[0]!r} on line "
        f"{absolute[0].line}; a manifest's paths are relative to its own folder, or to `root:`. Set `root: {common}` "
        "below the corpus in the config, and remove that from the paths."
    )


def _passed_over(header: list[str]) -> list[str]:
    """Return remarks on a column that is not there, and on those that look as if a run took them."""
    remarks = [] if "speaker" in header else ["no column 'speaker': speakers are unknown"]
    dimensions = [name for name in header if name.casefold() in DIMENSIONS]
    if dimensions:
        named = ", ".join(map(repr, dimensions))
        remarks.append(f"passed over {named}: emobench compares categories of emotion, not dimensions")
    return remarks


def faults_in(row: Row, root: Path) -> list[str]:
    """Return what is wrong with a row by itself."""
    faults = [f"{column} is {row.cells[column]!r}" for column in REQUIRED if is_missing(row.cells.get(column, "?"))]
    sex = row.cells.get("sex", "")
    if not is_missing(sex) and sex.strip().lower() not in SEXES:
        faults.append(f"sex is {sex!r}, not female, male, f, m or empty")
    if not is_missing(row.cells["path"]):
        faults += [f"path {row.cells['path']!r} {fault}" for fault in path_faults(row.cells["path"], root)]
    return faults


def path_faults(path: str, root: Path) -> list[str]:
    """Return why a path cannot be used: it leads out of `root` by itself or by a link, or to nothing."""
    if problem := path_problem(path, root):
        return [problem]
    real = os.path.realpath(root / path)
    if not Path(real).is_relative_to(os.path.realpath(root)):
        return [f"is a link out of the root, to {real}"]
    return []


def is_missing(cell: str) -> bool:
    """Whether a cell is empty, or spelled as the missing values of pandas, R and Excel."""
    return cell.strip().lower() in NOT_AVAILABLE


def describe(row: Row) -> Utterance:
    """Return the utterance of a row without faults."""
    cells = {column: clean(row.cells.get(column, "")) for column in (*REQUIRED, *OPTIONAL)}
    cells["path"] = Path(row.cells["path"]).as_posix()  # a space may belong to a file's name; ./a.wav is a.wav
    cells["sex"] = SEXES.get(cells["sex"].lower(), "")
    return Utterance(corpus="manifest", line=row.line, **cells)


def clean(cell: str) -> str:
    """Return a label without surrounding spaces and in one Unicode spelling: 'é' must not become two speakers."""
    return "" if is_missing(cell) else unicodedata.normalize("NFC", cell.strip())
