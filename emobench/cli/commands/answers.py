"""How the answers of `emobench predict` are written: as text, CSV or JSON, or to a file that can be continued."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.cli.frame import complain, one_line, print_json
from emobench.errors import ConfigError, DataError

if TYPE_CHECKING:
    from emobench.prediction.predictor import Prediction, WindowPrediction

Row = dict[str, Any]
Write = Callable[[Row], None]

_START = b'{"path": '  # of every line of a file of answers
_MAX_STDIN_BYTES = 2**30


def to_row(answer: Prediction | WindowPrediction, identity: Mapping[str, Any]) -> Row:
    """Return an answer as plain data, with what it was given by; no warning and no error where there is none."""
    row = {**asdict(answer), **identity, "path": answer.path or "-", "emotion": answer.emotion or None}
    return {name: value for name, value in row.items() if name not in ("warning", "error") or value}


def as_text(row: Row) -> None:
    """Print path, window, emotion, probabilities and marks between tabs; an error goes to stderr."""
    if "error" in row:
        return complain(f"{one_line(row['path'])}: {row['error']}")
    ranked = sorted((row["probabilities"] or {}).items(), key=lambda item: (-item[1], item[0]))
    probabilities = " ".join(f"{label}={value:.3f}" for label, value in ranked)
    where = [f"{row[name]:.3f}" for name in ("start_s", "end_s") if name in row]
    marks = f"[{'; '.join(row['marks'])}]" if row["marks"] else ""
    cells = [one_line(row["path"]), *where, row["emotion"], probabilities, marks]
    print("\t".join(filter(None, cells)), flush=True)


def as_lines(row: Row) -> None:
    """Print an object on a line of its own, at once."""
    print(_line(row), flush=True)


@contextlib.contextmanager
def as_document(*, is_single: bool) -> Iterator[Write]:
    """Print one JSON document at the end: an array of objects, or the object if there is but one to come."""
    rows: list[Row] = []
    yield rows.append
    print_json(rows[0] if is_single else rows)


def as_csv(classes: Sequence[str], *, has_windows: bool) -> Write:
    """Print CSV with a header; nothing in it is a formula or a control character."""
    from emobench.results.tables import in_csv

    where = ["start_s", "end_s"] if has_windows else []
    columns = ["path", *where, "emotion", *(f"p_{label}" for label in classes), "warning", "error", "marks"]
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writerow({name: in_csv(name) for name in columns})

    def write(row: Row) -> None:
        proba = {f"p_{label}": value for label, value in (row["probabilities"] or {}).items()}
        cells = row | proba | {"marks": "; ".join(row["marks"])}
        writer.writerow({name: in_csv(value) for name, value in cells.items()})
        sys.stdout.flush()

    return write


@contextlib.contextmanager
def appended(path: Path) -> Iterator[Write]:
    """Add a line of JSON for each answer to a file, so that a kill costs one answer."""
    from emobench.files import storage_errors

    with storage_errors(path):
        file = open(path, "a", encoding="ascii")  # noqa: SIM115  (closed below)
    with file:

        def write(row: Row) -> None:
            with storage_errors(path):
                file.write(_line(row) + "\n")
                file.flush()

        yield write


def answered(path: Path, identity: Mapping[str, Any]) -> set[str]:
    """Return the recordings that have an answer in a file of `appended`, and take out what is to be tried again.

    That are errors, and a last line that a kill has cut.

    Raises
    ------
    ConfigError
        If the file holds anything else, or answers of another model or threshold; it is then left as it is.
    """
    from emobench.files import storage_errors, write_bytes

    with storage_errors(path):
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ConfigError(
                    f"{path}: must be a file, so that its answers can be read again. Choose another path."
                )
            content = path.read_bytes()
        except FileNotFoundError:
            return set()
    *lines, _ = content.split(b"\n")
    parsed = [_parsed(line) for line in lines]
    rows = [row for row in parsed if row is not None]
    if len(rows) < len(lines) or not _START.startswith(content[: len(_START)]):
        raise ConfigError(
            f"{path}: must hold answers of `emobench predict --output`. It does not. Choose another path."
        )
    names = ("entry", "bundle", "threshold")
    others = [row for row in rows if any(row.get(name) != identity.get(name) for name in names)]
    if others:
        found = {name: others[0].get(name) for name in names}
        raise ConfigError(
            f"{path}: must hold answers of the same model and threshold, {dict(identity)}. It holds some of {found}. "
            "Choose another path."
        )
    kept = [(line, row) for line, row in zip(lines, rows, strict=True) if "error" not in row]
    rest = b"".join(line + b"\n" for line, _ in kept)
    if rest != content:
        write_bytes(path, rest)
    return {row["path"] for _, row in kept}


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False)


def _parsed(line: bytes) -> Row | None:
    """Return an answer that `_line` wrote, or nothing."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("path"), str) and "emotion" in row else None


def recordings(files: Sequence[str], *, null: bool) -> tuple[Iterable[str | bytes], bool]:
    """Return what is to be answered, and whether it is a single recording.

    A folder stands for the recordings in it, sorted; hidden and other files are passed over. ``-`` stands for standard
    input: the bytes of one recording, or names, one a line or each with NUL behind, which are read as they come.

    Raises
    ------
    DataError
        If a folder holds no recording.
    """
    found: list[Iterable[str | bytes]] = []
    for file in files:
        if file == "-":
            found.append(_from_stdin(null=null))
        else:
            found.append(_in_folder(Path(file)) if os.path.isdir(file) else [file])
    is_single = len(found) == 1 and isinstance(found[0], list) and len(found[0]) == 1 and not os.path.isdir(files[0])
    return (item for group in found for item in group), is_single


def _in_folder(folder: Path) -> list[str]:
    from emobench.audio.decoding import SUFFIXES

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    visible = [str(path) for path in files if not any(p.startswith(".") for p in path.relative_to(folder).parts)]
    if not visible:
        raise DataError(f"{folder}: holds no recordings ({', '.join(SUFFIXES)}). Name another folder.")
    return visible


def _from_stdin(*, null: bool) -> Iterable[str | bytes]:
    stream = sys.stdin.buffer
    if null:
        return (os.fsdecode(name) for name in stream.read().split(b"\0") if name)
    first = stream.readline(_MAX_STDIN_BYTES)
    if _is_audio(first):
        return [first + stream.read(_MAX_STDIN_BYTES - len(first))]
    lines = itertools.chain([first], stream)
    return (os.fsdecode(name) for line in lines if (name := line.rstrip(b"\r\n")))


def _is_audio(line: bytes) -> bool:
    """Return whether a first line is the beginning of a recording: no name holds NUL, begins like MP3, or is a WAV's.

    The size of a WAV or AIFF, four bytes that may end a line, stands right behind its first four letters.
    """
    return b"\0" in line or line[:1] == b"\xff" or (line[:4] in (b"RIFF", b"RF64", b"FORM") and len(line) <= 8)
