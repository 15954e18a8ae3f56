"""Protocols: which speakers are tested by a model that has never heard them, and the proof that it has not.

A protocol is one row of `PROTOCOLS`. It gives every utterance the number of the fold that tests it; the other folds'
utterances train. The folds depend on names alone, never on a library's version or a random generator's stream, and have
a fingerprint, so that two runs can prove that they tested the same thing.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from emobench.errors import ConfigError, LeakageError, SplitError, listing, lookup, resolve

# EmoBox's RAVDESS folds (Ma et al. 2024, EmoBox: Multilingual Multi-corpus Speech Emotion Recognition Toolkit and
# Benchmark): test actors, from its fold files; an unseeded shuffle made them, so they are copied facts.
EMOBOX_FOLDS = ((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22))

# Luna-Jiménez et al. (2022), A proposal for multimodal emotion recognition using aural transformers and action units
# on RAVDESS dataset, Applied Sciences 12(1): 327.
LUNA_FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))


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
    """

    ids: tuple[str, ...]
    speakers: tuple[str, ...]
    emotions: tuple[str, ...]
    sexes: tuple[str, ...]
    audio: tuple[str, ...]
    corpus: str = ""
    statements: tuple[str, ...] = ()
    intensities: tuple[str, ...] = ()

    def take(self, rows: np.ndarray) -> Labels:
        """Return the labels of some rows."""
        parts = [item.name for item in fields(self) if item.name != "corpus" and getattr(self, item.name)]
        return replace(self, **{part: tuple(getattr(self, part)[row] for row in rows) for part in parts})


@dataclass(frozen=True)
class ProtocolSpec:
    """A row of `PROTOCOLS`.

    Attributes
    ----------
    assign : str
        ``"module:function"`` called as ``assign(labels, seed=…, **options)``; returns the test fold of each utterance,
        an int array of shape (n_utterances,) with values 0..n_folds-1.
    options : mapping of str to default
        What a config may set; ``None`` means that it must.
    waives : tuple of str
        What may be shared between training and test; empty for an honest protocol. Identical audio is never waived.
    holds_out : str
        What is new in a test part besides the speaker, or instead: ``"statement"``, ``"intensity"`` or ``"sex"``.
    corpora : tuple of str
        The corpora it is defined for; empty for any.
    """

    name: str
    title: str
    assign: str
    options: Mapping[str, Any] = field(default_factory=dict)
    waives: tuple[str, ...] = ()
    holds_out: str = ""
    corpora: tuple[str, ...] = ()
    version: int = 1

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
        ProtocolSpec("loso", "Leave one speaker out", "emobench.splits:loso"),
        ProtocolSpec(
            "group-kfold",
            "Speakers sorted by sex, then name, dealt round-robin into n_splits folds",
            "emobench.splits:group_kfold",
            options={"n_splits": 6},
        ),
        ProtocolSpec(
            "emobox-6fold",
            "The six RAVDESS folds of EmoBox (4 actors each)",
            "emobench.splits:emobox_6fold",
            corpora=("ravdess", "synthetic"),
        ),
        ProtocolSpec(
            "luna-5fold",
            "The five RAVDESS folds of Luna-Jiménez et al. (2022)",
            "emobench.splits:luna_5fold",
            corpora=("ravdess", "synthetic"),
        ),
        ProtocolSpec(
            "random-kfold",
            "Clips dealt at random, speakers shared: only to show what that inflates",
            "emobench.splits:random_kfold",
            options={"n_splits": 6},
            waives=("speaker",),
        ),
        ProtocolSpec(
            "statement-out",
            "Train on all statements but one, test on that; speakers are shared",
            "emobench.splits:statement_out",
            waives=("speaker",),
            holds_out="statement",
        ),
        ProtocolSpec(
            "intensity-out",
            "Train on all intensities but one, test on that; speakers are shared",
            "emobench.splits:intensity_out",
            waives=("speaker",),
            holds_out="intensity",
        ),
        ProtocolSpec(
            "sex-out",
            "Train on one sex, test on the other",
            "emobench.splits:sex_out",
            holds_out="sex",
        ),
        ProtocolSpec(
            "file",
            "The folds of a folds.csv (utterance, fold), such as an earlier run wrote",
            "emobench.splits:from_file",
            options={"path": None, "protocol": ""},
        ),
    )
}


def get_protocol(name: str) -> ProtocolSpec:
    """Return the row of `PROTOCOLS` called `name`, or raise `UnknownNameError`."""
    return lookup("protocol", PROTOCOLS, name)


def make_folds(
    name: str, labels: Labels, *, options: Mapping[str, Any] | None = None, seed: int = 0, repeat: int = 0
) -> list[Fold]:
    """Split a corpus by a protocol.

    Raises
    ------
    SplitError
        If the protocol cannot split this corpus: too few speakers, or one that it does not know.
    """
    row = get_protocol(name)
    if row.corpora and labels.corpus not in row.corpora:
        raise SplitError(
            f"Protocol {name!r} must be used with {' or '.join(row.corpora)}. Got corpus {labels.corpus!r}. "
            "Take loso or group-kfold, which fit any corpus."
        )
    numbers = resolve(row.assign)(labels, seed=seed, **{**row.options, **(options or {})})
    return [
        Fold(repeat, int(index), np.flatnonzero(numbers != index), np.flatnonzero(numbers == index))
        for index in np.unique(numbers)
    ]


def loso(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Give each speaker, in sorted order, a fold of their own."""
    speakers = sorted(set(labels.speakers))
    if len(speakers) < 2:
        raise _one_speaker(labels)
    return _by_speaker(labels, {speaker: index for index, speaker in enumerate(speakers)})


def group_kfold(labels: Labels, *, n_splits: int = 6, seed: int = 0) -> np.ndarray:
    """Deal the speakers, sorted by sex and then name, round-robin into folds.

    Every fold then has both sexes and, where labels are balanced over speakers, every class.

    Raises
    ------
    SplitError
        If there are fewer speakers than folds.

    References
    ----------
    Roberts et al. (2017), Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic
    structure, Ecography 40: 913–929.
    """
    _check_n_splits(n_splits)
    order = sorted({(sex, speaker) for sex, speaker in zip(labels.sexes, labels.speakers, strict=True)})
    speakers = [speaker for _, speaker in order]
    if len(speakers) < 2:
        raise _one_speaker(labels)
    if len(speakers) < n_splits:
        raise SplitError(
            f"n_splits must be at most the number of speakers ({len(speakers)}). Got {n_splits}. "
            f"Lower protocols.n_splits to {len(speakers)} or add recordings of other speakers."
        )
    return _by_speaker(labels, {speaker: index % n_splits for index, speaker in enumerate(speakers)})


def inner_folds(speakers: Sequence[str], sexes: Sequence[str], n_splits: int) -> list[Fold]:
    """Split the rows of a training part for tuning: speakers disjoint, both sexes in every fold.

    Raises
    ------
    SplitError
        If there are fewer speakers than folds.
    """
    rows = tuple(map(str, range(len(speakers))))
    labels = Labels(ids=rows, speakers=tuple(speakers), emotions=rows, sexes=tuple(sexes), audio=rows)
    return make_folds("group-kfold", labels, options={"n_splits": n_splits})


def emobox_6fold(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Split RAVDESS's actors as EmoBox does."""
    return _by_actor(labels, EMOBOX_FOLDS, "emobox-6fold")


def luna_5fold(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Split RAVDESS's actors as Luna-Jiménez et al. (2022) do."""
    return _by_actor(labels, LUNA_FOLDS, "luna-5fold")


def random_kfold(labels: Labels, *, n_splits: int = 6, seed: int = 0) -> np.ndarray:
    """Deal clips at random into folds, balanced by emotion, speakers shared.

    The order is by a hash of seed and utterance id, so no generator's stream enters. Identical audio stays together.
    """
    _check_n_splits(n_splits)
    units: dict[str, int] = {}
    for row, audio in enumerate(labels.audio):
        units.setdefault(audio, row)
    if len(units) < n_splits:
        raise SplitError(
            f"n_splits must be at most the number of different recordings ({len(units)}). Got {n_splits}. Lower it."
        )

    def shuffled(row: int) -> tuple[str, str]:
        return labels.emotions[row], hashlib.sha256(f"{seed}\0{labels.ids[row]}".encode()).hexdigest()

    fold_of = {labels.audio[row]: index % n_splits for index, row in enumerate(sorted(units.values(), key=shuffled))}
    return np.array([fold_of[audio] for audio in labels.audio])


def statement_out(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Give each statement, in sorted order, a fold of its own."""
    return _by_value(labels, labels.statements, "statement")


def intensity_out(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Give each intensity, in sorted order, a fold of its own."""
    return _by_value(labels, labels.intensities, "intensity")


def sex_out(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Give each sex, in sorted order, a fold of its own."""
    return _by_value(labels, labels.sexes, "sex")


def from_file(labels: Labels, *, path: str, protocol: str = "", seed: int = 0) -> np.ndarray:
    """Read the fold of each utterance from a CSV with the columns ``utterance`` and ``fold``.

    Where a run wrote the file for several protocols, `protocol` picks the lines of one.
    """
    wanted = dict.fromkeys(labels.ids, -1)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            absent = {"utterance", "fold"} - set(reader.fieldnames or ())
            if absent:
                raise ConfigError(
                    f"{path}: must have the columns utterance and fold. Missing: {', '.join(sorted(absent))}. "
                    "Take a folds.csv that a run wrote as the pattern."
                )
            for line in reader:
                if not protocol or line.get("protocol") == protocol:
                    _take_fold(wanted, line, f"{path}, line {reader.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: must be a readable CSV of folds. {error}. Check protocols.path.") from None
    absent_ids = [utterance for utterance, fold in wanted.items() if fold < 0]
    if absent_ids:
        raise SplitError(
            f"{path}: must name the fold of every utterance. {len(absent_ids)} of {len(wanted)} are missing:\n"
            f"{listing(absent_ids)}\nUse the corpus and the emotions that the file was made for."
        )
    _, numbers = np.unique(list(wanted.values()), return_inverse=True)
    if len(set(numbers)) < 2:
        raise SplitError(f"{path}: must hold at least 2 folds. It holds 1. Check protocols.path.")
    return numbers


def _take_fold(wanted: dict[str, int], line: Mapping[str, str | None], place: str) -> None:
    utterance = (line["utterance"] or "").removeprefix("'")
    if utterance not in wanted:
        return
    try:
        fold = int(line["fold"] or "")
    except ValueError:
        fold = -1
    if fold < 0:
        raise ConfigError(f"{place}: fold must be a whole number from 0. Got {line['fold']!r}. Mend the line.")
    if wanted[utterance] not in (-1, fold):
        raise SplitError(
            f"{place}: an utterance must be in one fold. {utterance!r} is in {wanted[utterance]} and {fold}. "
            "Name one protocol of the file with protocols.protocol."
        )
    wanted[utterance] = fold


def _by_speaker(labels: Labels, fold_of: Mapping[str, int]) -> np.ndarray:
    return np.array([fold_of[speaker] for speaker in labels.speakers])


def _by_value(labels: Labels, values: Sequence[str], what: str) -> np.ndarray:
    """Give each value of an attribute a fold; refuse a corpus that does not tell the attribute of every utterance."""
    n_told, n_utterances = sum(map(bool, values)), len(labels.ids)
    corpus = labels.corpus or "the corpus"
    if n_told < n_utterances:
        raise SplitError(
            f"Protocol '{what}-out' must know the {what} of every utterance. Corpus {corpus!r} tells it of {n_told} of "
            f"{n_utterances}. Take group-kfold, or add the column {what!r} to a manifest."
        )
    found, numbers = np.unique(values, return_inverse=True)
    if len(found) < 2:
        raise SplitError(
            f"Protocol '{what}-out' must have utterances of at least 2 values of {what}. Corpus {corpus!r} has "
            f"{str(found[0])!r} alone. Take group-kfold."
        )
    return numbers


def _by_actor(labels: Labels, folds: Sequence[Sequence[int]], name: str) -> np.ndarray:
    fold_of = {f"{actor:02d}": index for index, actors in enumerate(folds) for actor in actors}
    unknown = sorted(set(labels.speakers) - set(fold_of))
    if unknown:
        raise SplitError(f"Protocol {name!r} knows speakers 01–24. Got {', '.join(unknown[:5])}. Take group-kfold.")
    numbers = _by_speaker(labels, fold_of)
    present = np.unique(numbers)
    if len(present) < 2:
        raise SplitError(
            f"Protocol {name!r} must have speakers in at least 2 of its folds. Got {len(set(labels.speakers))} "
            "speakers, all in one. Add speakers or take loso."
        )
    return np.searchsorted(present, numbers)


def _check_n_splits(n_splits: int) -> None:
    if n_splits < 2:
        raise SplitError(f"n_splits must be at least 2. Got {n_splits}. Raise protocols.n_splits.")


def _one_speaker(labels: Labels) -> SplitError:
    corpus = labels.corpus or "the corpus"
    return SplitError(
        f"A speaker-grouped protocol must have at least 2 speakers. Corpus {corpus!r} has {len(set(labels.speakers))}. "
        "Add recordings of other speakers."
    )


def fold_fingerprint(folds: Iterable[Fold], ids: Sequence[str]) -> str:
    """Return 16 hex digits that identify a split: which utterance is tested in which fold."""
    lines = sorted(f"{ids[row]}\t{fold.index}" for fold in folds for row in fold.test)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def rows_fingerprint(ids: Sequence[str], rows: np.ndarray) -> str:
    """Return 16 hex digits that identify a set of utterances."""
    return hashlib.sha256("\n".join(sorted(ids[row] for row in rows)).encode()).hexdigest()[:16]


def check_classes(
    labels: Labels, folds: Sequence[Fold], classes: Sequence[str], *, protocol: str, allow_missing: bool = False
) -> list[str]:
    """Check that every fold trains on every class; return a sentence for each test part that lacks one.

    Raises
    ------
    SplitError
        If a training part lacks a class and that is not allowed.
    """
    emotions = np.array(labels.emotions)
    lacking, remarks = [], []
    for fold in folds:
        untrained = sorted(set(classes) - set(emotions[fold.train]))
        untested = sorted(set(classes) - set(emotions[fold.test]))
        if untrained:
            lacking.append(f"fold {fold.index}: no training utterance of {', '.join(untrained)}")
        if untested:
            remarks.append(f"{protocol}, fold {fold.index}: no test utterance of {', '.join(untested)}")
    if lacking and not allow_missing:
        raise SplitError(
            f"Every fold must train on every class. Protocol {protocol!r} on corpus {labels.corpus!r} does not:\n"
            f"{listing(lacking)}\nAdd speakers with these emotions, leave the emotions out of `emotions`, or set "
            "allow_missing_class: true."
        )
    return remarks + [f"{protocol}, {text}" for text in lacking]


def certify(labels: Labels, folds: Sequence[Fold], *, protocol: str, waives: Sequence[str] = ()) -> dict[str, Any]:
    """Prove, fold by fold, that nothing of the test part is in the training part.

    Compares utterances, speakers and the audio itself, and that each utterance is tested exactly once a repeat.

    Returns
    -------
    certificate : dict
        What was compared and found, with the fingerprint of each part; written to ``run.json``.

    Raises
    ------
    LeakageError
        Naming the offending pair.
    """
    proofs = []
    for fold in folds:
        _refuse_shared(labels.ids, labels, fold, protocol, "utterance")
        _refuse_shared(labels.audio, labels, fold, protocol, "audio")
        if "speaker" not in waives:
            _refuse_shared(labels.speakers, labels, fold, protocol, "speaker")
        proofs.append(
            {
                "fold": fold.index,
                "n_train": len(fold.train),
                "n_test": len(fold.test),
                "train": rows_fingerprint(labels.ids, fold.train),
                "test": rows_fingerprint(labels.ids, fold.test),
                "test_speakers": sorted({labels.speakers[row] for row in fold.test}),
                "shared_speakers": len(_values(labels.speakers, fold.train) & _values(labels.speakers, fold.test)),
                "shared_audio": 0,
                "shared_utterances": 0,
            }
        )
    tested = np.sort(np.concatenate([fold.test for fold in folds]))
    if len(tested) != len(set(tested.tolist())):
        raise LeakageError(f"Protocol {protocol!r} must test an utterance once. It tests some in two folds. Mend it.")
    return {
        "protocol": protocol,
        "waives": list(waives),
        "folds_fingerprint": fold_fingerprint(folds, labels.ids),
        "n_utterances": len(labels.ids),
        "n_tested": len(tested),
        "folds": proofs,
    }


def _refuse_shared(values: Sequence[str], labels: Labels, fold: Fold, protocol: str, what: str) -> None:
    shared = _values(values, fold.train) & _values(values, fold.test)
    if not shared:
        return
    value = min(shared)
    train = next(labels.ids[row] for row in fold.train if values[row] == value)
    test = next(labels.ids[row] for row in fold.test if values[row] == value)
    named = "identical audio" if what == "audio" else f"{what} {value!r}"
    raise LeakageError(
        f"Training and test must share no {what}. Protocol {protocol!r}, fold {fold.index}: {named} is in both, "
        f"as {train!r} (training) and {test!r} (test). Put both into one fold, or remove one."
    )


def _values(values: Sequence[str], rows: np.ndarray) -> set[str]:
    return {values[row] for row in rows}
