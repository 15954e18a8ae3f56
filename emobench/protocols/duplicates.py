"""Identical audio under several names: twins, which every protocol keeps together, and conflicts, which contradict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from emobench.errors import CorpusError, listing
from emobench.protocols import Labels


def find_groups(audio: Sequence[str]) -> list[list[int]]:
    """Return the rows of each recording that is there more than once, in the order of the first of them."""
    groups = defaultdict(list)
    for row, content in enumerate(audio):
        groups[content].append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def find_pairs(labels: Labels) -> list[tuple[str, str]]:
    """Return the utterances with identical audio in pairs: the first with each other one."""
    return [(labels.ids[first], labels.ids[row]) for first, *others in find_groups(labels.audio) for row in others]


def find_conflicts(labels: Labels) -> list[list[int]]:
    """Return the groups of identical audio that have two emotions or two speakers: some of them must be wrong."""
    return [rows for rows in find_groups(labels.audio) if len({_says(labels, row) for row in rows}) > 1]


def describe_conflict(labels: Labels, rows: Sequence[int], *, is_silent: bool) -> str:
    """Return the recordings of a conflict, each with its speaker and emotion."""
    named = [f"{labels.ids[row]} (speaker {labels.speakers[row]}, {labels.emotions[row]})" for row in rows]
    return " = ".join(named) + (": nothing but digital silence" if is_silent else "")


def refuse_conflicts(labels: Labels, conflicts: Sequence[Sequence[int]], is_silent: Callable[[int], bool]) -> None:
    """Raise `CorpusError` with every conflict and what a config can do about it.

    Parameters
    ----------
    is_silent : callable
        Whether a row is digital silence, which is no contradiction but no speech either.
    """
    if not conflicts:
        return
    silent = [is_silent(rows[0]) for rows in conflicts]
    lines = [describe_conflict(labels, rows, is_silent=s) for rows, s in zip(conflicts, silent, strict=True)]
    advice = ["`on_silence: leave_out` leaves out silence"] * any(silent)
    advice += ["`on_conflict: drop` leaves out all members of each group", "`exclude: [PATH]` below the corpus some"]
    raise CorpusError(
        f"Identical audio must have one speaker and one emotion. In corpus {labels.corpus!r} it has not:\n"
        f"{listing(lines)}\nCorrect the labels, or leave recordings out in the config: {', '.join(advice)}."
    )


def _says(labels: Labels, row: int) -> tuple[str, str]:
    return labels.speakers[row], labels.emotions[row]
