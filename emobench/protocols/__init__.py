"""How speakers are split, and the proof that nothing leaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from emobench.registry import Option, Row, lookup

UNKNOWN_SPEAKERS = "speakers unknown"  # what results have in place of what training and test share


@dataclass(frozen=True)
class Fold:
    """Row indices of one train/test split.

    Attributes
    ----------
    repeat, index : int
        `repeat` counts model seeds over the same folds.
    train, test : int arrays
        Positions in the feature table, disjoint, ascending.
    """

    repeat: int
    index: int
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Labels:
    """What a protocol may look at: one entry an utterance, in the table's order.

    Attributes
    ----------
    ids, speakers, emotions, sexes : tuple of str
    statements, intensities : tuple of str
        An empty text where the corpus does not say.
    audio : tuple of str
        Hash of the recording's samples; equal ones go into the same fold.
    corpus : str
        Its name in results.
    source : str
        Its row of `CORPORA`, where that has another name.
    """

    ids: tuple[str, ...]
    speakers: tuple[str, ...]
    emotions: tuple[str, ...]
    sexes: tuple[str, ...]
    audio: tuple[str, ...]
    corpus: str = ""
    statements: tuple[str, ...] = ()
    intensities: tuple[str, ...] = ()
    source: str = ""

    @property
    def has_speakers(self) -> bool:
        """Whether the corpus tells who speaks; a split of one that does not cannot be certified."""
        return any(self.speakers)

    def take(self, rows: np.ndarray) -> Labels:
        """Return the labels of some rows."""
        names = {"corpus", "source"}
        parts = [item.name for item in fields(self) if item.name not in names and getattr(self, item.name)]
        taken: dict[str, Any] = {part: tuple(getattr(self, part)[row] for row in rows) for part in parts}
        return replace(self, **taken)


@dataclass(frozen=True)
class ProtocolSpec(Row):
    """A row of `PROTOCOLS`.

    Attributes
    ----------
    assign : "module:function" or function
        Called as ``assign(labels, seed=…, **options)``; returns the test fold of each utterance,
        an int array of shape (n_utterances,) with values 0..n_folds-1.
    options : mapping of str to Option
        What a config may set.
    waives : tuple of str
        What may be shared between training and test; empty for an honest protocol. Identical audio is never waived.
    holds_out : str
        What is new in a test part besides the speaker, or instead: ``"statement"``, ``"intensity"`` or ``"sex"``.
    corpora : tuple of str
        The corpora it is defined for; empty for any.
    needs_speakers : bool
        Whether it cannot split a corpus whose speakers are unknown.
    """

    kind: ClassVar[str] = "protocol"
    targets: ClassVar[tuple[str, ...]] = ("assign",)

    name: str
    title: str
    assign: str | Callable[..., np.ndarray]
    options: Mapping[str, Option] = field(default_factory=dict)
    waives: tuple[str, ...] = ()
    holds_out: str = ""
    corpora: tuple[str, ...] = ()
    needs_speakers: bool = True
    version: int = 1

    def shares(self, labels: Labels) -> tuple[str, ...]:
        """Return what results say that training and test share, or that nobody knows."""
        return self.waives if labels.has_speakers else (UNKNOWN_SPEAKERS,)

    @property
    def is_speaker_independent(self) -> bool:
        """Whether a test part's speakers are new, and nothing else."""
        return "speaker" not in self.waives and not self.holds_out

    @property
    def is_leaky(self) -> bool:
        """Whether nothing of a test part is new: what the leakage premium measures."""
        return "speaker" in self.waives and not self.holds_out


PROTOCOLS: dict[str, ProtocolSpec] = {
    row.name: row
    for row in (
        ProtocolSpec("loso", "Leave one speaker out", "emobench.protocols.folds:loso"),
        ProtocolSpec(
            "group-kfold",
            "Speakers sorted by sex, then name, dealt round-robin into n_splits folds",
            "emobench.protocols.folds:group_kfold",
            options={"n_splits": Option(int, 6, ge=2)},
        ),
        ProtocolSpec(
            "emobox-6fold",
            "The six RAVDESS folds of EmoBox (4 actors each)",
            "emobench.protocols.folds:emobox_6fold",
            corpora=("ravdess", "synthetic"),
        ),
        ProtocolSpec(
            "luna-5fold",
            "The five RAVDESS folds of Luna-Jiménez et al. (2022)",
            "emobench.protocols.folds:luna_5fold",
            corpora=("ravdess", "synthetic"),
        ),
        ProtocolSpec(
            "random-kfold",
            "Clips dealt at random, speakers shared: only to show what that inflates",
            "emobench.protocols.folds:random_kfold",
            options={"n_splits": Option(int, 6, ge=2)},
            waives=("speaker",),
            needs_speakers=False,
        ),
        ProtocolSpec(
            "statement-out",
            "Train on all statements but one, test on that; speakers are shared",
            "emobench.protocols.folds:statement_out",
            waives=("speaker",),
            holds_out="statement",
        ),
        ProtocolSpec(
            "intensity-out",
            "Train on all intensities but one, test on that; speakers are shared",
            "emobench.protocols.folds:intensity_out",
            waives=("speaker",),
            holds_out="intensity",
        ),
        ProtocolSpec(
            "sex-out",
            "Train on one sex, test on the other",
            "emobench.protocols.folds:sex_out",
            holds_out="sex",
        ),
        ProtocolSpec(
            "file",
            "The folds of a folds.csv (utterance, fold), such as an earlier run wrote",
            "emobench.protocols.folds:from_file",
            options={"path": Option(Path), "protocol": Option(str, "")},
            needs_speakers=False,
        ),
    )
}


def get_protocol(name: str) -> ProtocolSpec:
    """Return the row of `PROTOCOLS` called `name`, or raise `UnknownNameError`."""
    return lookup("protocol", PROTOCOLS, name)
