"""How the answers of `emobench predict` are written: as text, CSV or JSON, or to a file that can be continued."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.cli.frame import complain, one_line, print_json
from emobench.errors import ConfigError

if TYPE_CHECKING:
    from emobench.prediction.predictor import Prediction, WindowPrediction

Row = dict[str, Any]
Write = Callable[[Row], None]

_START = b'{"path": '  # of every line of a file of answers


def to_row(answer: Prediction | WindowPrediction, identity: Mapping[str, Any]) -> Row:
    """Return an answer as plain data, with what it was given by; no warning and no error where there is none."""
    row = asdict(answer) | identity | {"emotion": answer.emotion or None}
    return {name: value for name, value in row.items() if name not in ("warning", "error") or value}


def as_text(row: Row) -> None:
    """Print path, window, emotion and probabilities between tabs; an error goes to stderr."""
    if "error" in row:
        return complain(f"{one_line(row['path'])}: {row['error']}")
    ranked = sorted((row["probabilities"] or {}).items(), key=lambda item: (-item[1], item[0]))
    probabilities = " ".join(f"{label}={value:.3f}" for label, value in ranked)
    where = [f"{row[name]:.3f}" for name in ("start_s", "end_s") if name in row]
    print("\t".join([one_line(row["path"]), *where, row["emotion"], probabilities]).rstrip(), flush=True)


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
    """Print CSV with a header; text that a spreadsheet would take for a formula gets an apostrophe."""
    from emobench.results.tables import not_a_formula

    where = ["start_s", "end_s"] if has_windows else []
    columns = ["path", *where, "emotion", *(f"p_{label}" for label in classes), "warning", "error"]
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()

    def write(row: Row) -> None:
        proba = {f"p_{label}": value for label, value in (row["probabilities"] or {}).items()}
        writer.writerow({name: not_a_formula(value) for name, value in (row | proba).items()})
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
    rows = [_parsed(line) for line in lines]
    if None in rows or not _START.startswith(content[: len(_START)]):
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


def names(files: Sequence[str], *, null: bool) -> Iterator[str]:
    """Yield the names of recordings; ``-`` stands for those on standard input, one a line or each with NUL behind."""
    for file in files:
        if file != "-":
            yield file
            continue
        stream = sys.stdin.buffer
        found = stream.read().split(b"\0") if null else (line.rstrip(b"\r\n") for line in stream)
        yield from (os.fsdecode(name) for name in found if name)
